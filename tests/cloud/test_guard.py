"""What is refused before a call costs anything, and what the protocol bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from uhlm_edge.cloud.app import App
from uhlm_edge.cloud.guard import Guard, Refusal, guarded_protocol
from uhlm_edge.cloud.service import Service
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.keys import Keys
from uhlm_edge.wire.messages import Limits, Request, Settings, prefix_hash

from ..fakes import CLOUD, FakeContext
from .test_app import ask

KEY = "sk-canary-0123456789"


def service(keys: Keys, **more: float) -> Service:
    verifier = Verifier(FakeContext(), 200, 8)
    return Service(verifier, CLOUD.vocab, "fake-llm", "none", Limits(), keys, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("header", ["forwarded", "via", "x-forwarded-for", "x-real-ip"])
def test_an_open_verifier_refuses_what_a_proxy_forwards(header: str) -> None:
    more: dict[str, Any] = {header.replace("-", "_"): "192.0.2.7"}
    answer = ask(service(Keys()), "GET", "/v1/info", key=None, **more)
    assert (answer.status, answer.error["code"]) == (403, 403)
    assert ask(service(Keys()), "GET", "/v1/info", key=None).status == 200
    assert ask(service(Keys([KEY])), "GET", "/v1/info", key=KEY, **more).status == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_back() -> None:
    now = 0.0
    guard = Guard(Keys(), 2.0, lambda: now)
    for _ in range(4):  # two seconds of its rate may come at once
        guard.admit("a")
    with pytest.raises(Refusal) as caught:
        guard.admit("a")
    assert (caught.value.status, caught.value.retry_after) == (429, 0.5)
    guard.admit("b")
    now = 0.5
    guard.admit("a")
    with pytest.raises(Refusal):
        guard.admit("a")


def test_the_line_of_a_call_has_sizes_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    of = service(Keys([KEY]))
    of.verifier.driver.start()
    request = Request(1, 0, prefix_hash([]), [201, 202, 203], bonus=1, settings=Settings(origin=3))
    with caplog.at_level(logging.INFO, "uhlm_edge.cloud.calls"):
        assert ask(of, "POST", "/v1/verify", request.pack(), key=KEY).status == 200
    of.verifier.driver.close()
    (record,) = caplog.records
    line = json.loads(record.getMessage())
    assert (line["ids"], line["drafts"], line["tokens"], line["held"]) == (3, 0, 1, 4)
    assert "canary" not in record.getMessage()
    assert all(not isinstance(value, list) for value in line.values())


# The protocol, over real sockets


@contextmanager
def running(head_seconds: float = 60.0, connections: int = 100) -> Iterator[int]:
    """A server in a loop of its own thread; its port."""
    of = service(Keys([KEY]))
    config = uvicorn.Config(
        App(of), http=guarded_protocol(4096, head_seconds, connections), ws="none", lifespan="off",
        log_level="critical", access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def until_closed(port: int, send: Callable[[socket.socket], None]) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with contextlib.suppress(ConnectionError):
            send(connection)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(4096):
                answer += chunk
    return answer


def test_headers_without_end_are_cut_off() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"GET /v1/info HTTP/1.1\r\nhost: x\r\n")
        for i in range(100_000):  # 200 MB if nobody stops it
            connection.sendall(b"x-%d: " % i + b"y" * 2000 + b"\r\n")

    with running() as port:
        answer = until_closed(port, flood)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        line = until_closed(port, lambda c: c.sendall(b"GET /" + b"a" * 9000))
        assert line == b"" or line.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nhost:"])
def test_a_connection_that_says_nothing_more_is_closed(first: bytes) -> None:
    with running(head_seconds=0.2) as port:
        assert until_closed(port, lambda c: c.sendall(first)).startswith(b"HTTP/1.1 408 ")


def test_connections_have_an_end_and_a_wrong_key_closes_its_own() -> None:
    with running(connections=2) as port:
        wrong = b"GET /v1/info HTTP/1.1\r\nhost: x\r\nauthorization: Bearer no\r\n\r\n"
        assert until_closed(port, lambda c: c.sendall(wrong)).startswith(b"HTTP/1.1 401 ")
        held = []
        for _ in range(2):
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            one.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 200 ")
            held.append(one)
        assert until_closed(port, lambda _: None).startswith(b"HTTP/1.1 503 ")
        for one in held:
            one.close()
