"""HTTP connections whose reply, head and body, must be there by a point in time.

A timeout of a socket begins anew with every byte, so a server that sends one byte a second would
hold a call for hours. Here each read gets only what is left.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

__all__ = ["TimedAdapter"]


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a point in time."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, end: float) -> None:
        self._raw, self._sock, self._end = raw, sock, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0.0:
            raise TimeoutError("the time for the whole reply is over")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """Its socket's timeout, as it is when the reply begins, is for all of it."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        timeout = sock.gettimeout()
        if timeout is not None:
            raw: Any = self.fp.detach()
            reader = _TimedReader(raw, sock, time.monotonic() + timeout)
            self.fp = io.BufferedReader(reader)


class _Connection(HTTPConnection):
    response_class = _Response

    def request(self, *args: Any, **more: Any) -> None:
        if self.sock is not None:  # what the call before had left is not for this one
            self.sock.settimeout(self.timeout)
        super().request(*args, **more)


class _SafeConnection(HTTPSConnection):
    response_class = _Response

    def request(self, *args: Any, **more: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        super().request(*args, **more)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SafePool(HTTPSConnectionPool):
    ConnectionCls = _SafeConnection


def _timed(manager: Any) -> Any:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}
    return manager


class TimedAdapter(HTTPAdapter):
    """For `requests.Session.mount`."""

    poolmanager: PoolManager

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        _timed(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
        return _timed(super().proxy_manager_for(*args, **more))
