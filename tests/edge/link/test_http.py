"""The real client against a real server that misbehaves."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from uhlm_edge.common.errors import (
    CloudError,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    Refused,
    Rejected,
    Unreachable,
)
from uhlm_edge.edge.link.http import HttpLink, _retry_after
from uhlm_edge.edge.link.protocol import Deadline
from uhlm_edge.edge.link.session import Session
from uhlm_edge.wire.messages import Conflict, Info, Limits, Reply, Request, Settings, prefix_hash

from ...commands import web_server
from ...fakes import FakeVocabulary
from .raw_server import Answer, RawServer, http

KEY = "sk-canary-0123456789"
SESSION = "ab" * 16
V = 1000
ASKED = Request(7, 3, prefix_hash([1, 2, 3]), [4], [9], bonus=1)
GOOD = Reply(7, 3, 0, [5], [0.25], 5, distributions=[], binding=ASKED.binding(SESSION))
OK = http(200, GOOD.pack())
CONFLICT = http(409, b'{"error": {}, "held": 2, "held_prefix": "0102"}', "application/json")
INFO = Info(model="llm", fingerprint=(9, "f"), end_ids=frozenset([1]), n_ctx=99, limits=Limits())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def call(
    server: RawServer,
    seconds: float = 20.0,
    key: str | None = None,
    pauses: list[float] | None = None,
) -> Reply | Conflict:
    link = HttpLink(server.url, key, sleep=(pauses if pauses is not None else []).append)
    return link.verify(SESSION, ASKED, V, Deadline(seconds))


def failure(server: RawServer, seconds: float = 20.0) -> CloudError:
    with pytest.raises(CloudError) as caught:
        call(server, seconds)
    return caught.value


# What is sent


def test_a_call_and_its_reply() -> None:
    with RawServer([OK, CONFLICT]) as server:
        link = HttpLink(server.url)
        assert link.verify(SESSION, ASKED, V, Deadline(20)) == GOOD
        assert link.verify(SESSION, ASKED, V, Deadline(20)) == Conflict(2, b"\x01\x02")
        assert server.connections == 1  # kept alive


def test_a_path_is_the_prefix_of_a_proxy() -> None:
    with RawServer([http(200, INFO.model_dump_json().encode(), "application/json"), OK]) as server:
        link = HttpLink(f"{server.url}/some/prefix/")
        assert link.info(Deadline(20)) == INFO
        assert link.verify(SESSION, ASKED, V, Deadline(20)) == GOOD
        lines = [request.split(b" HTTP/")[0] for request in server.requests]
    assert lines == [b"GET /some/prefix/v1/info", b"POST /some/prefix/v1/verify"]


def test_the_bytes_counted_are_the_bytes_that_arrive() -> None:
    long = replace(ASKED, tokens=list(range(900)), settings=Settings())
    other = replace(GOOD, binding=long.binding(SESSION))
    with RawServer([OK, http(200, other.pack())]) as server:
        link = HttpLink(server.url, KEY)
        for request in (ASKED, long):
            link.verify(SESSION, request, V, Deadline(20))
        traffic = link.traffic
        assert traffic.calls == 2
        assert traffic.wire_up == sum(map(len, server.requests))
        assert traffic.wire_down == sum(map(len, server.sent))
        bodies = [raw.partition(b"\r\n\r\n")[2] for raw in server.requests]
        assert traffic.payload_up == sum(map(len, bodies))
        assert traffic.payload_down == 2 * len(GOOD.pack())


def test_only_the_headers_that_are_needed_are_sent() -> None:
    with RawServer([OK]) as server:
        call(server, key=KEY)
    head = server.requests[0].partition(b"\r\n\r\n")[0].decode()
    line, *headers = head.split("\r\n")
    assert line == "POST /v1/verify HTTP/1.1"
    sent = dict(header.split(": ") for header in headers)
    assert {name.lower() for name in sent} == {
        "host", "content-type", "content-length", "authorization", "x-session-id", "x-deadline-ms",
    }  # fmt: skip
    assert sent["X-Session-Id"] == SESSION


def test_info_is_asked_for_and_checked() -> None:
    body = INFO.model_dump_json().encode()
    with RawServer([http(200, body, "application/json")]) as server:
        assert HttpLink(server.url).info(Deadline(20)) == INFO
    with (
        RawServer([http(200, b"<html>Welcome to the hotel", "text/html")]) as server,
        pytest.raises(ProtocolError, match="is no verifier"),
    ):
        HttpLink(server.url).info(Deadline(20))


# Bounded time


def drip(first: bytes, each: bytes) -> Callable[[socket.socket], None]:
    """Never a second of silence, and never an end."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            time.sleep(0.05)
            connection.sendall(each)

    return answer


SLOW: dict[str, Answer] = {
    "silence": drip(b"", b""),
    "status line": drip(b"HTTP/1.1 2", b"0"),
    "headers": drip(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
    "one header": drip(b"HTTP/1.1 200 OK\r\na: ", b"b"),
    "body": drip(http(200, b"x" * 10_000)[:-10_000], b"x"),
    "body without length": drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "chunks": drip(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "body, then silence": drip(http(200, b"x" * 99)[:-50], b""),
}


@pytest.mark.parametrize("part", SLOW)
def test_a_slow_server_is_bounded_by_the_deadline_and_its_thread_ends(part: str) -> None:
    with RawServer([SLOW[part]]) as server:
        session = Session(HttpLink(server.url), FakeVocabulary(), "slm", deadline=0.4)
        before = set(threading.enumerate())
        with pytest.raises(DeadlineExceeded, match=r"0\.4 s"):
            session.connect()
        session.close()  # should the link itself have seen that time was up, it is not given up
        for thread in set(threading.enumerate()) - before:
            if thread.name == "uhlm-link":
                thread.join(60)  # its socket was closed: it does not wait for the server
                assert not thread.is_alive()


def test_a_deadline_that_is_over_sends_nothing() -> None:
    with RawServer([OK]) as server:
        assert isinstance(failure(server, seconds=0.0), DeadlineExceeded)
        deadline = Deadline(20)
        deadline.cancel()
        with pytest.raises(DeadlineExceeded):
            HttpLink(server.url).verify(SESSION, ASKED, V, deadline)
        with pytest.raises(DeadlineExceeded):  # its thread may begin when it is over already
            HttpLink(server.url).forget(SESSION, deadline)
        assert server.connections == 0


# Tries


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_may_pass_is_tried_at_most_twice_more(status: int) -> None:
    with RawServer([http(status)]) as server:
        assert isinstance(failure(server), Overloaded)
        assert len(server.requests) == 3
    with RawServer([http(status), http(status), OK]) as server:
        assert call(server) == GOOD
        bodies = {raw.partition(b"\r\n\r\n")[2] for raw in server.requests}
        assert bodies == {ASKED.pack()}  # the same id, the same bytes


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_sent_again(status: int) -> None:
    with RawServer([http(status, b'{"error": {"message": "because"}}')]) as server:
        error = failure(server)
        assert isinstance(error, Refused)
        assert len(server.requests) == 1
        assert "because" not in str(error)


@pytest.mark.parametrize("status", [400, 404, 405, 413, 418, 422])
def test_a_rejected_call_is_not_repeated_and_no_refusal_for_good(status: int) -> None:
    with RawServer([http(status, b'{"error": {"message": "because"}}')]) as server:
        error = failure(server)
        assert isinstance(error, Rejected)
        assert len(server.requests) == 1
        assert "because" in str(error)


@pytest.mark.parametrize("status", [500, 501, 599])
def test_a_failed_verifier_is_not_asked_again_and_is_no_refusal(status: int) -> None:
    with RawServer([http(status, b'{"error": {"message": "because"}}')]) as server:
        assert isinstance(failure(server), Unreachable)
        assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", b"Internal Server Error", b"{}", b'{"error": 1}'])
def test_a_500_that_is_no_verifier_s_own_may_pass(body: bytes) -> None:
    with RawServer([http(500, body, "text/plain"), OK]) as server:
        assert call(server) == GOOD
        assert len(server.requests) == 2


def test_the_end_of_a_session_goes_where_its_calls_went() -> None:
    with RawServer([http(204)]) as server:
        HttpLink(server.url).forget(SESSION, Deadline(30))
        (asked,) = server.requests
        assert asked.startswith(f"DELETE /v1/sessions/{SESSION} ".encode())
        assert f"x-session-id: {SESSION}\r\n".encode() in asked.lower()


def test_tries_back_off_with_jitter() -> None:
    pauses: list[float] = []
    with RawServer([http(503)]) as server, pytest.raises(Overloaded):
        call(server, pauses=pauses)
    assert 0.025 <= pauses[0] <= 0.075
    assert 0.05 <= pauses[1] <= 0.15


def test_retry_after_is_obeyed_within_the_deadline() -> None:
    pauses: list[float] = []
    with RawServer([http(429, headers=("retry-after: 3",)), OK]) as server:
        assert call(server, pauses=pauses) == GOOD
    assert pauses == [3.0]


def test_retry_after_beyond_the_deadline_is_told_and_not_waited_for() -> None:
    with RawServer([http(429, headers=("retry-after: 30",))]) as server:
        error = failure(server)
        assert len(server.requests) == 1
    assert isinstance(error, Overloaded)
    assert error.retry_after == 30.0


def test_retry_after_may_be_a_date() -> None:
    when = datetime.now(timezone.utc) + timedelta(seconds=100)
    assert _retry_after(format_datetime(when, usegmt=True)) == pytest.approx(100, abs=3)
    naive = when.strftime("%a, %d %b %Y %H:%M:%S -0000")
    assert _retry_after(naive) == pytest.approx(100, abs=3)
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    "value",
    ["", "soon", "-1", "1.5", "\u00b2", "9" * 5000, "nan", "Wed, 99 Oct 20151 07:28:00 GMT"],
)
def test_a_retry_after_that_says_nothing_does_no_harm(value: str) -> None:
    with RawServer([http(503, headers=(f"retry-after: {value}",))]) as server:
        assert isinstance(failure(server), Overloaded)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_never_followed(status: int) -> None:
    with RawServer([OK]) as elsewhere:
        headers = (f"location: {elsewhere.url}/v1/verify",)
        with RawServer([http(status, headers=headers)]) as server:
            assert isinstance(failure(server), Unreachable)
            assert len(server.requests) == 1
        assert elsewhere.connections == 0


# Wrong answers


@pytest.mark.parametrize(
    "answer",
    [
        http(200, replace(GOOD, id=8).pack()),
        http(200, replace(GOOD, start=2).pack()),
        http(200, replace(GOOD, tokens=[V]).pack()),
        http(200, GOOD.pack()[:-1]),
        http(200, GOOD.pack() + b"x"),
        http(200, b""),
        http(200, b"\xff" * 100),
        http(200, GOOD.pack(), "text/html"),
        http(200, b"<html>Welcome to the hotel</html>", "text/html"),
        http(204),
        http(409, b"{}"),
        http(409, b"[" * 100_000),
    ],
    ids=range(12),
)
def test_a_wrong_answer_is_no_answer(answer: bytes) -> None:
    with RawServer([answer]) as server:
        error = failure(server)
        assert isinstance(error, ProtocolError) or b" 204 " in answer
        assert len(server.requests) == 1


def test_a_huge_answer_is_cut_off() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/msgpack\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with RawServer([flood]) as server:
        error = failure(server)
        assert isinstance(error, ProtocolError)
        assert "more than a reply" in str(error)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def cut(raw: bytes, end: Callable[[socket.socket], None] = socket.socket.close) -> Answer:
    """Send that much, then end the connection."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(raw)
        end(connection)

    return answer


BROKEN: dict[str, Answer] = {
    "closed at once": cut(b""),
    "reset at once": cut(b"", reset),
    "cut in the body": cut(OK[:-3]),
    "reset in the body": cut(OK[:-3], reset),
    "cut in the head": cut(OK[:9]),
    "no HTTP": cut(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "endless header": cut(b"HTTP/1.1 200 OK\r\na: " + b"x" * 99_999),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_connection_is_tried_again(how: str) -> None:
    with RawServer([BROKEN[how], OK]) as server:
        assert call(server) == GOOD
        assert len(server.requests) == 2


@pytest.mark.parametrize("how", BROKEN)
def test_a_connection_that_always_breaks_is_unreachable(how: str) -> None:
    with RawServer([BROKEN[how]]) as server:
        assert isinstance(failure(server), Unreachable)
        assert len(server.requests) == 3


def test_a_server_that_restarted_is_used_again() -> None:
    with RawServer([OK]) as server:
        link = HttpLink(server.url)
        for _ in range(3):
            assert link.verify(SESSION, ASKED, V, Deadline(20)) == GOOD
            server.hang_up()
        assert link.traffic.calls >= 3


def test_tls_at_a_port_without_it_is_told_as_what_it_is() -> None:
    with web_server(200) as url, pytest.raises(Unreachable) as caught:
        HttpLink(url.replace("http:", "https:"), sleep=lambda _: None).info(Deadline(60.0))
    assert "does not speak TLS; is it an http:// address?" in str(caught.value)
    assert "certificate" not in str(caught.value)


def test_nobody_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="cannot reach the verifier"):
        HttpLink(f"http://127.0.0.1:{port}").verify(SESSION, ASKED, V, Deadline(20))


def test_after_a_reset_calls_go_on() -> None:
    with RawServer([OK]) as server:
        link = HttpLink(server.url)
        link.verify(SESSION, ASKED, V, Deadline(20))
        link.reset()
        assert link.verify(SESSION, ASKED, V, Deadline(20)) == GOOD
        assert server.connections == 2
