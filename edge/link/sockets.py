"""Connections that another thread can close.

A call that nobody waits for any more may sit in a read from a server that sends a byte a second.
Python cannot end its thread; but a read from a socket that was shut down ends at once.
"""

from __future__ import annotations

import contextlib
import socket
import weakref
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

__all__ = ["ClosableAdapter"]


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


def _pool(pool: Any, connection: Any, sockets: list[weakref.ref[Any]]) -> Any:
    """A kind of pool whose connections note their sockets."""

    class Connection(connection):  # type: ignore[misc] # a class made of an argument
        def connect(self) -> None:
            super().connect()
            # Not the connection: it lets go of a socket whose reply ends with the connection.
            sockets[:] = [reference for reference in sockets if reference() is not None]
            sockets.append(weakref.ref(self.sock))

    return type("Pool", (pool,), {"ConnectionCls": Connection})
