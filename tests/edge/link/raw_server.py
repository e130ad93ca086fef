"""An HTTP server of plain sockets that answers exactly what a test tells it, however wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

Answer = bytes | Callable[[socket.socket], None]
"""Bytes to send, or what to do with the connection."""


def http(
    status: int = 200,
    body: bytes = b"",
    kind: str = "application/msgpack",
    headers: tuple[str, ...] = (),
) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} Some", f"content-length: {len(body)}", f"content-type: {kind}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


@dataclass
class RawServer:
    """Each request takes the next answer; the last one stays. `requests` are their raw bytes."""

    answers: list[Answer]
    requests: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> RawServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(10)

    def hang_up(self) -> None:
        """Close what is open, as a server that restarts does."""
        for connection in self._open:
            with connection:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while request := _read_request(connection):
                self.requests.append(request)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if callable(answer):
                    answer(connection)
                    return
                self.sent.append(answer)
                connection.sendall(answer)
        except OSError:
            return


def _read_request(connection: socket.socket) -> bytes:
    raw = b""
    while b"\r\n\r\n" not in raw:
        part = connection.recv(65536)
        if not part:
            return b""
        raw += part
    head, _, body = raw.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
