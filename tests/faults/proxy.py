"""A proxy between device and verifier that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

__all__ = ["KINDS", "FaultyProxy"]

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""

_OK = {"content-type": "application/msgpack"}
_JSON = {"content-type": "application/json"}


def _status(status: int, **headers: str) -> Callable[[Answer], Answer]:
    body = b'{"error": {"code": 1, "message": "made up"}}'
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: (status, {**_JSON, **named}, body)


def _field(index: int, change: Callable[[Any], Any]) -> Callable[[Answer], Answer]:
    """A field of the reply's array, changed."""

    def alter(answer: Answer) -> Answer:
        status, headers, body = answer
        if status != 200 or headers.get("content-type") != _OK["content-type"]:
            return answer
        fields = msgpack.unpackb(body)
        fields[index] = change(fields[index])
        return status, headers, msgpack.packb(fields)

    return alter


def _oversized(_: Answer) -> Answer:
    return 200, _OK, b"\x00" * (6 << 20)


def _zipped(answer: Answer) -> Answer:
    return answer[0], {**answer[1], "content-encoding": "gzip"}, gzip.compress(answer[2])


ALTERED: dict[str, Callable[[Answer], Answer]] = {
    "garbage": lambda _: (200, _OK, b"\xc1\xff" * 50),
    "another page": lambda _: (200, {"content-type": "text/html"}, b"<html>Welcome"),
    "wrong id": _field(0, lambda call: call + 1),
    "wrong start": _field(1, lambda start: start + 1),
    "wrong session": _field(2, lambda binding: bytes([binding[0] ^ 1]) + binding[1:]),
    "oversized": _oversized,
    "gzip": _zipped,
    "400": _status(400),
    "401": _status(401),
    "403": _status(403),
    "404": _status(404),
    "422": _status(422),
    "429, Retry-After of a year": _status(429, retry_after="31536000"),
    "500": _status(500),
    "503": _status(503, retry_after="0"),
    "redirect": _status(307, location="http://127.0.0.1:9/v1/verify"),
}
"""Faults that are another answer than the verifier's."""


def _drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def _silence(connection: socket.socket) -> None:
    connection.recv(1)  # until the device hangs up


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _truncated(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhalf")


BROKEN: dict[str, Callable[[socket.socket], None]] = {
    "drip": _drip,
    "silence": _silence,
    "reset": _reset,
    "truncated": _truncated,
    "closed": lambda _: None,
}
"""Faults of the connection."""

LOST = "answer lost"  # the verifier has answered, and nobody hears it
STALE = "answer of an earlier call"
KINDS = (*ALTERED, *BROKEN, LOST, STALE)


class FaultyProxy:
    """Forwards calls to `port` on loopback; `fault(n)` is the kind of fault of the nth, or None.

    Only calls to `/v1/verify` are counted and altered.
    """

    def __init__(self, port: int, fault: Callable[[int], str | None] = lambda _: None) -> None:
        self.fault = fault
        self.calls = 0
        self._upstream = port
        self._earlier: bytes | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> FaultyProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *tuple(self._open)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream)
        left = contextlib.suppress(OSError, ValueError, http.client.HTTPException)
        with self._noted(connection), contextlib.closing(upstream), left:
            stream = connection.makefile("rb")
            while line := stream.readline():
                method, path, _ = line.decode("latin-1").split(" ", 2)
                headers = dict(http.client.parse_headers(stream).items())
                length = next((v for k, v in headers.items() if k.lower() == "content-length"), "0")
                body = stream.read(int(length))
                kind = self._kind(path)
                if kind in BROKEN:
                    BROKEN[kind](connection)
                    return
                upstream.request(method, path, body, headers)
                reply = upstream.getresponse()
                answer = (
                    reply.status,
                    {k.lower(): v for k, v in reply.headers.items()},
                    reply.read(),
                )
                if kind == LOST:
                    return
                connection.sendall(_pack(self._altered(kind, path, answer)))

    @contextlib.contextmanager
    def _noted(self, connection: socket.socket) -> Iterator[None]:
        """Open, and to be closed at the latest when the proxy ends."""
        self._open.add(connection)
        try:
            with connection:
                yield
        finally:
            self._open.discard(connection)

    def _kind(self, path: str) -> str | None:
        if path != "/v1/verify":
            return None
        with self._lock:
            self.calls += 1
            return self.fault(self.calls - 1)

    def _altered(self, kind: str | None, path: str, answer: Answer) -> Answer:
        if kind in ALTERED:
            return ALTERED[kind](answer)
        if kind == STALE and self._earlier is not None:
            return 200, _OK, self._earlier
        if path == "/v1/verify" and answer[0] == 200:
            self._earlier = answer[2]
        return answer


def _pack(answer: Answer) -> bytes:
    status, headers, body = answer
    kept = {k: v for k, v in headers.items() if k not in ("content-length", "connection", "date")}
    lines = [f"HTTP/1.1 {status} Some", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in kept.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
