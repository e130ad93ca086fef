"""The Python API on the demo pair."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from uhlm_edge import Hybrid, Reply, UsageError, provenance
from uhlm_edge.edge.api.options import REPLY_OPTIONS, keys_of
from uhlm_edge.edge.chat import assistant
from uhlm_edge.edge.events import Token

from .models import ASKED, PERU, demo


@pytest.fixture(scope="module")
def pair() -> Iterator[Hybrid]:
    with demo() as hybrid:
        yield hybrid


@pytest.fixture
def alone() -> Iterator[Hybrid]:
    with demo(alone=True) as hybrid:
        yield hybrid


def test_a_token_says_who_wrote_it_and_the_statistics_agree(pair: Hybrid) -> None:
    reply = pair.generate(ASKED, strategy="hlm", seed=4)
    kinds = [provenance(token) for token in reply]
    assert reply.stats.tokens == len(kinds)
    assert kinds.count("replaced") == reply.stats.rejected > 0
    assert kinds.count("confirmed") == len(kinds) - reply.stats.rejected
    for token in reply.tokens:
        assert (reply.draft_text(token) == token.text) is (token.source == "edge") or not token.text
    assert str(reply) == reply.text == "".join(token.text for token in reply.tokens)


@pytest.mark.parametrize(
    ("source", "uploaded", "accepted", "said"),
    [
        ("edge", False, None, "device"),
        ("edge", True, True, "confirmed"),
        ("cloud", True, False, "replaced"),
        ("cloud", True, None, "replaced"),
        ("edge", True, None, "unverified"),
    ],
)
def test_each_verdict_has_its_provenance(
    source: Any, uploaded: bool, accepted: bool | None, said: str
) -> None:
    token = Token(0, 1, "a", source, 0.5, uploaded, accepted, said == "unverified", 0.0)
    assert provenance(token) == said


def test_options_of_a_reply_hold_for_it_alone_and_load_nothing(pair: Hybrid) -> None:
    engine = pair._assistants.base.device.cache.engine
    before = pair.generate(ASKED).read()
    assert pair.generate(ASKED, strategy="local").read().stats.uploads == 0
    assert pair.generate(ASKED, threshold=-1).read().stats.uploads == before.stats.tokens
    assert len(pair.generate(ASKED, max_tokens=3).read().tokens) == 3
    assert pair.generate(ASKED, seed=5, temperature=1.5).read().text != before.text
    again = pair.generate(ASKED).read()
    assert (again.text, again.stats.uploads) == (before.text, before.stats.uploads)
    assert pair._assistants.base.device.cache.engine is engine


def test_another_strategy_brings_the_threshold_of_its_own_score(pair: Hybrid) -> None:
    assert pair.config.strategy.threshold == 0.15
    assert pair.scores["uhlm"] == pair.scores["spec"] == "uncertainty"
    assert (pair.scores["reward"], pair.scores["hlm"]) == ("head", None)
    assert pair.generate(ASKED, strategy="spec").read().stats.threshold == 0.15
    headed = pair.generate(ASKED, strategy="reward").read().stats.threshold
    assert headed is not None
    assert headed > 0.2  # of its calibration
    assert pair.generate(ASKED, ask_by="head").read().stats.threshold not in (0.15, None)
    assert pair.generate(ASKED, strategy="reward", threshold=0.3).read().stats.threshold == 0.3


def test_a_handoff_reply_may_ask_by_another_score_or_over_another_window() -> None:
    def why(**options: Any) -> str:
        token = hybrid.generate(ASKED, max_tokens=12, **options).read().tokens[0]
        assert token.reason is not None
        return token.reason

    with demo(alone=True, strategy="handoff", threshold=0.4) as hybrid:
        assert hybrid.strategies == ("local", "handoff")
        assert re.fullmatch(r"mean u 0.\d+ [<>]=? 0.400", why())
        headed = why(ask_by="head", threshold=0.3)
        assert re.fullmatch(r"expected rejection 0.\d+ [<>]=? 0.300", headed)
        assert why(window=2) != why()
        with pytest.raises(UsageError, match="no calibration of handoff by the head"):
            why(ask_by="head")  # 0.4 is of u
        with pytest.raises(UsageError, match="must be uncertainty or head"):
            why(ask_by="luck")
        with pytest.raises(UsageError, match="another start"):
            why(strategy="uhlm")
    with demo(alone=True, strategy="handoff", ask_by="head", threshold=0.4) as hybrid:
        assert why().startswith("expected rejection ")
        assert why(ask_by="uncertainty").endswith(" 0.047")  # of its calibration


def test_a_reply_is_bound_where_the_device_writes_alone(pair: Hybrid, alone: Hybrid) -> None:
    yes = 'root ::= "yes" | "no"'
    assert pair.generate(PERU, grammar=yes, strategy="local").read().text in ("yes", "no")
    assert alone.chat("Is it?", grammar={"enum": ["yes", "no"]}).text in ('"yes"', '"no"')
    again = alone.read_grammar(yes)
    assert all(alone.generate(PERU, grammar=again, seed=i).read().text in yes for i in range(3))
    for strategy in ("hlm", "uhlm", "cloud", "spec"):
        with pytest.raises(UsageError, match="use strategy local"):
            pair.generate(PERU, grammar=yes, strategy=strategy)
    with pytest.raises(UsageError, match="Undefined rule"):
        alone.generate(PERU, grammar="root ::= other")


def test_the_second_turn_reads_nothing_of_the_first_again(alone: Hybrid) -> None:
    engine = alone._assistants.base.device.cache.engine
    first = alone.chat("What is the capital of Peru?")
    known = engine.length
    read: list[int] = []
    whole = engine.eval

    def counting(tokens: list[int], rows: int = 1) -> Any:
        read.extend(tokens)
        return whole(tokens, rows)

    engine.eval = counting  # type: ignore[method-assign, assignment]
    second = alone.chat("And of Chile?")
    assert second.cached_tokens == known == first.prompt_tokens + len(first.tokens) - 1
    assert len(read) == second.prompt_tokens - known + len(second.tokens) - 1
    assert [m["role"] for m in alone.messages] == ["user", "assistant"] * 2


def test_a_reply_says_why_it_ended(alone: Hybrid) -> None:
    assert alone.generate(PERU).read().finish_reason == "stop"
    assert alone.generate(PERU, max_tokens=2).read().finish_reason == "length"
    stopped = alone.generate(PERU, stop=["no such", "l of Pe"]).read()
    assert (stopped.text, stopped.finish_reason) == ("The capita", "stop")
    left = alone.generate(PERU)
    next(left)
    left.close()
    assert left.finish_reason is None


def test_a_reply_that_is_left_early_frees_the_device(alone: Hybrid) -> None:
    for token in alone.generate(PERU):
        assert token.index == 0
        break
    unfinished = alone.generate(PERU)
    next(unfinished)
    with pytest.raises(UsageError, match="close"):
        alone.generate(PERU).read()
    unfinished.close()
    assert "Lima" in alone.generate(PERU).read().text


def test_threads_wait_for_their_turn(alone: Hybrid) -> None:
    texts: list[str] = []
    ask = lambda: texts.append(alone.generate(PERU).read().text)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 3
    assert len(set(texts)) == 1


def test_asyncio_awaits_a_reply_or_iterates_it(alone: Hybrid) -> None:
    async def both() -> tuple[list[Reply], str]:
        whole = await asyncio.gather(*(_read(alone) for _ in range(2)))
        return whole, "".join([token.text async for token in alone.agenerate(PERU)])

    async def _read(hybrid: Hybrid) -> Reply:
        return await hybrid.agenerate(PERU)

    whole, pieces = asyncio.run(both())
    assert [reply.text for reply in whole] == [pieces] * 2
    assert whole[0].finish_reason == "stop"


def test_tokens_that_came_while_the_loop_was_busy_are_handed_on_at_once(
    alone: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_came = threading.Event()
    next_of = Reply.__next__

    def waits_after_the_first(reply: Reply) -> Token:
        assert not reply.tokens or first_came.wait(60.0)
        return next_of(reply)

    monkeypatch.setattr(Reply, "__next__", waits_after_the_first)

    async def busy() -> tuple[int, list[list[Token]]]:
        asked = alone.agenerate(PERU)
        batches = aiter(asked.batches())
        assert len(await anext(batches)) == 1
        first_came.set()
        while alone._busy.locked():  # the loop does not turn, and the device writes on
            pass
        return len(asked.reply.tokens), [batch async for batch in batches]

    written, rest = asyncio.run(busy())
    assert written > 2
    assert [len(batch) for batch in rest] == [written - 1]


def test_a_whole_reply_is_one_batch(alone: Hybrid) -> None:
    async def batches() -> list[list[Token]]:
        return [batch async for batch in alone.agenerate(PERU).batches(whole=True)]

    assert ["".join(token.text for token in batch) for batch in asyncio.run(batches())] == [
        "The capital of Peru is Lima."
    ]


def test_replies_share_the_compiled_template(
    alone: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assistant, "ChatEncoder", None)  # a second one cannot be made
    assert "Lima" in alone.generate(PERU).read().text


def test_u_is_measured_where_it_decides_and_where_it_is_asked_for(alone: Hybrid) -> None:
    def known(**options: Any) -> set[bool]:
        tokens = alone.generate(PERU, **options).read().tokens
        return {token.uncertainty is not None for token in tokens}

    assert known(strategy="uhlm") == known(strategy="local", measure=True) == {True}
    assert known(strategy="local") == {False}


def test_a_task_that_is_cancelled_frees_the_device_within_one_token(alone: Hybrid) -> None:
    story = [{"role": "user", "content": "Tell me a story."}]

    async def leave() -> int:
        asked = alone.agenerate(story, max_tokens=500, temperature=2.0)
        tokens = aiter(asked)
        await anext(tokens)
        await tokens.aclose()
        come = len(asked.reply.tokens)
        await alone.agenerate(PERU)  # the same thread: waits until it is free
        return len(asked.reply.tokens) - come

    assert asyncio.run(leave()) <= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"temperature": -1}, "sampler.temperature"),
        ({"model": "other"}, r"set once, in Hybrid.load"),
        ({"strategy": "telepathy"}, "strategy.name"),
        ({"max_tokens": 0}, "chat.max_tokens"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    alone: Hybrid, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        alone.generate(PERU, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user"}],
        [{"role": "wizard", "content": "x"}],
        [{"role": "user", "content": 1}],
    ],
)
def test_messages_that_are_none_are_refused(alone: Hybrid, messages: Any) -> None:
    with pytest.raises(UsageError):
        alone.generate(messages)


def test_sections_of_the_configuration_are_options_too() -> None:
    given = keys_of({"device": {"engine": {"n_ctx": 64}}, "pipelined": True, "top_k": 1})
    assert given == {
        ("device", "engine", "n_ctx"): 64,
        ("strategy", "pipelined"): "on",
        ("sampler", "top_k"): 1,
    }
    assert {"temperature", "seed", "threshold"} <= set(REPLY_OPTIONS)


def test_a_token_is_frozen() -> None:
    token = Token(0, 1, "a", "edge", None, False, None, False, 0.0)
    with pytest.raises(AttributeError):
        token.text = "b"  # type: ignore[misc]
    assert replace(token, text="b").text == "b"
