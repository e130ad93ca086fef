"""Connections: what leaves in one piece."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from uhlm_edge.common.sockets import ClosableAdapter


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="no packets in order here")
@pytest.mark.parametrize("size", [0, 300, 20_000])
def test_a_request_with_a_short_body_is_one_piece(size: int) -> None:
    pool: Any = ClosableAdapter().poolmanager.connection_from_url("http://127.0.0.1:9")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps them apart
    with ours, theirs:
        theirs.settimeout(5.0)
        for path in ("/first", "/second"):
            connection = pool.ConnectionCls("127.0.0.1", 9)
            connection.sock = ours
            connection.request("POST", path, body=b"x" * size)
            head = theirs.recv(1 << 20)
            assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
            with_body = b"x" * size if size == 300 else b""
            assert head.endswith(b"\r\n\r\n" + with_body)
            if size > 300:
                assert theirs.recv(1 << 20) == b"x" * size
