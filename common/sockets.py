"""Connections that another thread can close.

A call that nobody waits for any more may sit in a read from a server that sends a byte a second.
Python cannot end its thread; but a read from a socket that was shut down ends at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

_SMALL = 16_384  # bytes; each piece on its own would be a packet, and wake the other side


class ClosableAdapter(HTTPAdapter):
    """For `requests.Session.mount`: knows its sockets, those in use too."""

    poolmanager: PoolManager

    def __init__(self) -> None:
        self._sockets: list[weakref.ref[Any]] = []
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
        return self._watch(super().proxy_manager_for(*args, **more))

    def close_sockets(self) -> None:
        """End what any thread is reading or writing; it gets an error."""
        for reference in list(self._sockets):
            sock = reference()
            if sock is not None:
                with contextlib.suppress(OSError):  # it was closed already
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS: no handshake

    def _watch(self, manager: Any) -> Any:
        manager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, HTTPConnection, self._sockets),
            "https": _pool(HTTPSConnectionPool, HTTPSConnection, self._sockets),
        }
        return manager


class TimedSession(requests.Session):
    """Its connections are closed after so many seconds: also a head that drips has an end.

    Attributes:
        expired: that has happened; whoever was reading got an error.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.expired = False
        self._adapter = ClosableAdapter()
        self.mount("https://", self._adapter)
        self.mount("http://", self._adapter)
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def relax(self) -> None:
        """No such limit from here on."""
        self._timer.cancel()

    def close(self) -> None:
        self._timer.cancel()
        super().close()

    def _expire(self) -> None:
        self.expired = True
        self._adapter.close_sockets()


def _pool(pool: Any, connection: Any, sockets: list[weakref.ref[Any]]) -> Any:
    """A kind of pool whose connections note their sockets, and send head and body in one piece."""

    class Connection(connection):  # type: ignore[misc] # a class made of an argument
        _head: bytes | None = None  # of a request that is being made, until its body follows

        def request(self, *args: Any, **more: Any) -> None:
            self._head = b""
            try:
                super().request(*args, **more)
            finally:
                head, self._head = self._head, None
            if head:
                super().send(head)

        def send(self, data: Any) -> None:
            if self._head is not None and isinstance(data, bytes) and len(data) <= _SMALL:
                self._head += data
                return
            if head := self._head:
                self._head = None
                super().send(head)
            super().send(data)

        def connect(self) -> None:
            super().connect()
            # Not the connection: it lets go of a socket whose reply ends with the connection.
            sockets[:] = [reference for reference in sockets if reference() is not None]
            sockets.append(weakref.ref(self.sock))

    return type("Pool", (pool,), {"ConnectionCls": Connection})
