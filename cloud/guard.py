"""Who may ask, how often, and how: what is refused before a call costs anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..common.keys import Keys

_FORWARDED = {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"}
_BURST = 2.0  # seconds of a key's rate that may come at once
_TOO_MUCH = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n"
_END = b"content-length: 0\r\nconnection: close\r\n\r\n"


class Refusal(Exception):
    """An answer that is no reply: a status, a line that says why, when to come back.

    Args:
        status: of HTTP.
        message: for people.
        retry_after: seconds.
        more: further fields of the body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after: float | None = None,
        more: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.more = more or {}


class Guard:
    """Keys, and how often each may ask.

    Args:
        keys: that are let in; none lets everybody in, on this machine.
        calls_per_s: of one key, in the long run; 0: as many as it likes.
        clock: seconds, monotonic.
    """

    def __init__(
        self, keys: Keys, calls_per_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._rate = calls_per_s
        self._clock = clock
        self._tokens: dict[str, tuple[float, float]] = {}  # owner: calls left, as of when

    def owner(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Whose request it is.

        Raises:
            Refusal: nobody's whom we know, or an open verifier was put behind a proxy.
        """
        authorization = None
        for name, value in headers:
            if name == b"authorization":
                authorization = value.decode("latin-1")
            elif name in _FORWARDED and not self._keys:
                raise Refusal(
                    403, "a proxy forwards to this verifier, which has no key: set UHLM_API_KEY"
                )
        owner = self._keys.owner(authorization)
        if owner is None:
            raise Refusal(401, "this verifier wants a key: authorization: Bearer KEY")
        return owner

    def admit(self, owner: str) -> None:
        """Count a call of this owner.

        Raises:
            Refusal: it asks too often.
        """
        if not self._rate:
            return
        most, now = max(1.0, _BURST * self._rate), self._clock()
        left, since = self._tokens.get(owner, (most, now))
        left = min(most, left + (now - since) * self._rate)
        if left < 1.0:
            raise Refusal(429, "this key asks too often", (1.0 - left) / self._rate)
        self._tokens[owner] = left - 1.0, now


def guarded_protocol(
    head_bytes: int, head_seconds: float, connections: int
) -> type[HttpToolsProtocol]:
    """HTTP for uvicorn, with bounds on what comes before a request is known: line, headers, time.

    By itself it reads headers without a limit, and waits for them without one. A connection without
    a key must neither grow the memory nor stay open for nothing.

    Args:
        head_bytes: of request line and headers together.
        head_seconds: from the first byte expected to the end of the headers.
        connections: open at once.
    """

    class Guarded(HttpToolsProtocol):
        _head = 0
        _in_head = True
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > connections:
                self._refuse(_TOO_MANY)
            else:
                self._timer = self.loop.call_later(head_seconds, self._refuse, _TOO_SLOW)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._in_head:
                self._head += len(data)
                if self._head > head_bytes and b"\r\n\r\n" not in data[: head_bytes + 4]:
                    self._refuse(_TOO_MUCH)
                    return
            super().data_received(data)
            if self._head and self._timer is None:  # a part of a later request's head
                self._timer = self.loop.call_later(head_seconds, self._refuse, _TOO_SLOW)

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            self._stop_timer()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head = True
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, line: bytes) -> None:
            self._stop_timer()
            self.transport.write(line + _END)
            self.transport.close()

    return Guarded
