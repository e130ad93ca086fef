"""Whole replies handed to an endpoint of the OpenAI kind: when, and what a fault of it does."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.chat.assistant import Assistant
from uhlm_edge.edge.decode.handoff import NO_ID, Handoff
from uhlm_edge.edge.events import Event, Notice, Token
from uhlm_edge.edge.link.breaker import Breaker
from uhlm_edge.edge.link.openai import OpenAiEndpoint
from uhlm_edge.edge.link.session import Session
from uhlm_edge.edge.policy.strategy import make_strategy

from ..link.raw_server import RawServer, http
from ..pairs import Clock, Pair, pair

ASK: list[Any] = [{"role": "user", "content": "hi"}]
NEVER, ALWAYS = 2.0, -1.0


@pytest.fixture
def p() -> Iterator[Pair]:
    with pair() as p:
        yield p


def assistant(p: Pair, endpoint: OpenAiEndpoint | None, threshold: float, n: int = 12) -> Assistant:
    return Assistant(
        p.device, Session(None, p.device.vocab), make_strategy("handoff"), max_tokens=n, seed=3,
        handoff=Handoff(endpoint, 6, threshold),
    )  # fmt: skip


def alone(p: Pair, n: int = 12) -> str:
    """What the device writes by itself."""
    session = Session(None, p.device.vocab)
    local = Assistant(p.device, session, make_strategy("local"), max_tokens=n, seed=3)
    list(local.answer(ASK))
    return local.text


def chunk(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def stream(*parts: bytes) -> bytes:
    return http(200, b"".join(parts) + b"data: [DONE]\n\n", "text/event-stream")


def broken_after(*parts: bytes) -> Any:
    """Says that more will come, and hangs up."""
    body = b"".join(parts)

    def send(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_RDWR)

    return send


def tokens(events: list[Event]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


def told(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_a_device_that_is_sure_sends_nothing_and_writes_what_it_would_alone(p: Pair) -> None:
    endpoint = OpenAiEndpoint("http://127.0.0.1:9", "big")
    talk = assistant(p, endpoint, NEVER)
    got = tokens(list(talk.answer(ASK)))
    assert talk.text == alone(p)
    assert endpoint.traffic.calls == 0
    assert {token.source for token in got} == {"edge"}
    assert all(token.reason and "<= 2.000" in token.reason for token in got)
    assert not any(token.unverified for token in got)
    assert talk.loop is not None
    assert talk.loop.stats.uploads == 0


def test_an_unsure_one_shows_the_endpoint_s_reply_and_nothing_of_its_own(p: Pair) -> None:
    answer = stream(chunk("So"), chunk(" be it."), chunk("", "stop"))
    with RawServer([answer]) as server:
        talk = assistant(p, OpenAiEndpoint(server.url, "big", "secret"), ALWAYS)
        got = tokens(list(talk.answer(ASK)))
    assert talk.text == "So be it."
    assert [token.id for token in got[:-1]] == [NO_ID, NO_ID]
    assert [token.index for token in got] == [0, 1, 2]
    assert {(token.source, token.uploaded) for token in got} == {("cloud", True)}
    assert all(token.reason and "> -1.000" in token.reason for token in got)
    assert talk.finish_reason == "stop"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert b"POST /v1/chat/completions " in head
    assert b"authorization: bearer secret" in head.lower()
    sent = json.loads(body)
    assert (sent["model"], sent["messages"], sent["max_tokens"]) == ("big", ASK, 12)
    assert talk.loop is not None
    stats = talk.loop.stats
    assert (stats.uploads, stats.uplink_bytes, stats.transmission_rate) == (1, len(body), 1.0)
    assert stats.downlink_bytes > len("So be it.")


def test_a_limit_at_the_endpoint_is_a_length(p: Pair) -> None:
    with RawServer([stream(chunk("So", "length"))]) as server:
        talk = assistant(p, OpenAiEndpoint(server.url, "big"), ALWAYS)
        list(talk.answer(ASK))
    assert (talk.text, talk.finish_reason) == ("So", "length")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(503, b"{}"), "failed"),
        (http(401, b"{}"), "key"),
        (http(404, b'{"error": {"message": "no such model"}}'), "no such model"),
        (http(400, b'{"error": ' + b"[" * 100_000), "OpenAI kind"),
        (http(400, b'{"error": {"message": "' + b"a" * (2 << 20)), "OpenAI kind"),
        (http(302, b"", headers=("location: http://192.0.2.1/",)), "failed"),
        (http(200, b"<html>hello</html>", "text/html"), "broke off"),
        (stream(b"data: {nonsense\n\n"), "no reply"),
        (stream(b'data: {"choices": 5}\n\n'), "no reply"),
        (stream(b'data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
        (broken_after(), "broke off"),
    ],
)
def test_a_fault_before_the_first_word_leaves_the_device_s_own_reply(
    p: Pair, answer: Any, said: str
) -> None:
    with RawServer([answer]) as server:
        talk = assistant(p, OpenAiEndpoint(server.url, "big"), ALWAYS)
        events = list(talk.answer(ASK))
    assert talk.text == alone(p)
    assert all(token.unverified and token.source == "edge" for token in tokens(events))
    (line,) = told(events)
    assert said in line
    assert "going on with the device alone" in line
    assert talk.loop is not None
    assert talk.loop.stats.offline_reason is not None


def test_only_a_refused_key_is_for_good(p: Pair) -> None:
    with RawServer([http(400, b"{}"), stream(chunk("So be it.", "stop"))]) as server:
        clock = Clock()
        talk = assistant(p, OpenAiEndpoint(server.url, "big", breaker=Breaker(clock)), ALWAYS)
        list(talk.answer(ASK))
        clock.now += 1000.0
        list(talk.answer(ASK))
    assert talk.text == "So be it."


@pytest.mark.parametrize("part", ["head", "remarks", "half a line"])
def test_an_endpoint_that_drips_is_not_waited_for(p: Pair, part: str) -> None:
    def drip(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        connection.sendall(head + (b"x-more: " if part == "head" else b"\r\n"))
        while True:
            time.sleep(0.01)
            connection.sendall(b":\n\n" if part == "remarks" else b"x")

    with RawServer([drip]) as server:
        endpoint = OpenAiEndpoint(server.url, "big", connect_timeout=0.2, deadline=0.2)
        talk = assistant(p, endpoint, ALWAYS)
        events = list(talk.answer(ASK))
    assert talk.text == alone(p)
    assert len(told(events)) == 1


def test_a_reply_that_breaks_off_is_gone_on_with_and_never_ends_there(p: Pair) -> None:
    with RawServer([broken_after(chunk("ab"), chunk("cd"))]) as server:
        talk = assistant(p, OpenAiEndpoint(server.url, "big"), ALWAYS)
        events = list(talk.answer(ASK))
    got = tokens(events)
    assert talk.text.startswith("abcd")
    assert [token.source for token in got[:3]] == ["cloud", "cloud", "edge"]
    assert [token.index for token in got] == list(range(len(got)))
    assert all(token.unverified for token in got[2:])
    assert len(got) <= 12
    assert len(told(events)) == 1


def test_a_refusal_for_good_is_not_asked_again_and_a_fault_is_not_at_once(p: Pair) -> None:
    with RawServer([http(401, b"{}")]) as server:
        talk = assistant(p, OpenAiEndpoint(server.url, "big"), ALWAYS)
        list(talk.answer(ASK))
        assert all(token.unverified for token in tokens(list(talk.answer(ASK))))
        assert len(server.requests) == 1


def test_without_an_endpoint_the_device_says_what_it_missed(p: Pair) -> None:
    talk = assistant(p, None, ALWAYS)
    assert all(token.unverified for token in tokens(list(talk.answer(ASK))))
    assert talk.text == alone(p)
    assert talk.loop is not None
    assert talk.loop.stats.offline_reason is not None


def test_a_reply_that_is_closed_early_keeps_what_was_shown(p: Pair) -> None:
    with RawServer([stream(chunk("So"), chunk(" be it."), chunk("", "stop"))]) as server:
        talk = assistant(p, OpenAiEndpoint(server.url, "big"), ALWAYS)
        events = talk.answer(ASK)
        next(events)
        events.close()
    assert talk.messages[-1]["content"] == "So"


def test_the_one_model_that_an_endpoint_lists_is_taken_and_of_several_one_must_be_named() -> None:
    def listing(*names: str) -> bytes:
        return http(200, json.dumps({"data": [{"id": name} for name in names]}).encode())

    with RawServer([listing("big"), listing("big", "bigger"), http(404, b"{}")]) as server:
        assert OpenAiEndpoint(server.url).model == "big"
        with pytest.raises(ConfigError, match="--cloud-model"):
            OpenAiEndpoint(server.url).connect()
        with pytest.raises(Exception, match="OpenAI kind"):
            OpenAiEndpoint(server.url).connect()


class Expecting:
    """A reward head that expects every draft to be kept with one probability."""

    def __init__(self, kept: float) -> None:
        self._kept = kept

    def reset(self) -> None:
        """It remembers nothing."""

    def score(self, *_: Any) -> float:
        return self._kept


@pytest.mark.parametrize(("kept", "handed"), [(0.9, False), (0.4, True)])
def test_a_reward_head_may_decide_in_place_of_u(p: Pair, kept: float, handed: bool) -> None:
    head: Any = Expecting(kept)
    with RawServer([stream(chunk("So be it."), chunk("", "stop"))]) as server:
        talk = assistant(p, None, 0.5)
        talk.device = replace(p.device, head=head)
        talk.handoff = Handoff(OpenAiEndpoint(server.url, "big"), 6, 0.5, "head")
        first, *_ = tokens(list(talk.answer(ASK)))
    assert (first.source == "cloud") == handed
    assert first.reason == f"expected rejection {1 - kept:.3f} {'>' if handed else '<='} 0.500"


def test_a_key_never_travels_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="https"):
        OpenAiEndpoint("http://192.0.2.1/v1", "big", "secret")
    assert OpenAiEndpoint("https://192.0.2.1/api", "big", "secret").url.endswith("/api")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({("cloud", "kind"): "verifier"}, "token by token"),
        ({("strategy", "threshold"): "risk"}, "number"),
        ({("strategy", "ask_by"): "head"}, "no calibration of handoff by the head"),
    ],
)
def test_options_that_do_not_fit_are_refused(flags: dict[Any, Any], said: str) -> None:
    given = {("strategy", "name"): "handoff", ("cloud", "url"): "http://127.0.0.1:9", **flags}
    config = load_config(given, environment={}).config
    with pytest.raises(ConfigError, match=said), assemble(config, print, environment={}):
        pass


def test_a_reply_that_must_match_a_grammar_is_never_handed_over(p: Pair) -> None:
    def anything(tokens: Any) -> Any:
        return np.ones(len(p.device.vocab), dtype=bool)

    with RawServer([stream(chunk("free", "stop"))]) as server:
        bound = assistant(p, OpenAiEndpoint(server.url, "m"), ALWAYS)
        bound.device = replace(bound.device, grammar=lambda: anything)
        list(bound.answer(ASK))
        assert bound.text == alone(p)
        assert not server.requests
