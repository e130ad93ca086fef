"""A small HTTP client for asyncio: keep-alive, one call at a time, bounded in time and bytes.

Libraries cost more per call than the verifier does, and the tool must not be what is measured.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

from ...wire.codec import Malformed

_HEAD_BYTES = 16 << 10
_BODY_BYTES = 4 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)
_RETRY = re.compile(rb"\r\nretry-after: *([0-9]{1,4})\r\n", re.IGNORECASE)


class Answer(NamedTuple):
    """Status, body, and the seconds that a Retry-After header asks for."""

    status: int
    body: bytes
    retry_after: float | None


class Client:
    """One connection to the verifier, opened when it is needed.

    Args:
        url: scheme, host and port.
        key: sent as a bearer token.
        session_id: sent as `x-session-id`.
    """

    def __init__(self, url: str, key: str | None, session_id: str) -> None:
        parts = urlsplit(url)
        self.session_id = session_id
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        headers = f"Host: {parts.netloc}\r\nX-Session-Id: {session_id}\r\n"
        if key:
            headers += f"Authorization: Bearer {key}\r\n"
        self._headers = headers
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: bytes = b"", timeout: float = 10) -> Answer:
        """Send one request and read its answer.

        Raises:
            asyncio.TimeoutError: it took longer than `timeout` seconds.
            OSError, EOFError: the connection failed or broke.
            Malformed: what came back is not HTTP as the verifier speaks it.
        """
        try:
            return await asyncio.wait_for(self._call(method, path, body, timeout), timeout)
        except BaseException:
            self.close()
            raise

    async def _call(self, method: str, path: str, body: bytes, timeout: float) -> Answer:
        fresh = self._streams is None
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, limit=_BODY_BYTES
            )
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n"
        if body:
            head += f"Content-Type: application/msgpack\r\nX-Deadline-Ms: {int(1e3 * timeout)}\r\n"
        writer.write(f"{head}\r\n".encode() + body)
        try:
            answer_head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self.close()
            if fresh or error.partial:
                raise
            return await self._call(
                method, path, body, timeout
            )  # an idle connection was closed meanwhile
        if len(answer_head) > _HEAD_BYTES or not answer_head.startswith(b"HTTP/1.1 "):
            raise Malformed("no HTTP/1.1 answer")
        length = _LENGTH.search(answer_head)
        status = int(answer_head[9:12])
        size = int(length[1]) if length else 0
        if size > _BODY_BYTES or (length is None and status != 204):
            raise Malformed("an answer without length, or too long")
        content = await reader.readexactly(size)
        if b"\r\nconnection: close\r\n" in answer_head.lower():
            self.close()
        retry = _RETRY.search(answer_head)
        return Answer(status, content, float(retry[1]) if retry else None)

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
