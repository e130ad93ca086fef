"""The HTTP protocol with bounds on what comes before a request is known: line, headers, time.

uvicorn reads headers without a limit, and waits for them without one. A connection without a key
must neither grow the memory nor stay open for nothing.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_MUCH = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n"
_END = b"content-length: 0\r\nconnection: close\r\n\r\n"


def guarded_protocol(
    head_bytes: int, head_seconds: float, connections: int
) -> type[HttpToolsProtocol]:
    """A protocol for uvicorn.

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
