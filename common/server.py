"""A server that ends in order when it is told to."""

from __future__ import annotations

import asyncio
import socket
import time
from types import FrameType

import uvicorn

_SECONDS = 4.0  # for what runs; uvicorn itself would wait for 5 (`listen.server_config`)


class Server(uvicorn.Server):
    """Finishes what runs, within seconds, and hangs up on the rest; the exit status is 0.

    By itself uvicorn ends the process by the signal once more, before its caller can close a model,
    and cancels what still runs, with a traceback each.
    """

    _in_haste = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._in_haste |= self.should_exit  # a second signal means it
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hanging_up = asyncio.create_task(self._hang_up())
        await super().shutdown(sockets)
        hanging_up.cancel()

    async def _hang_up(self) -> None:
        """A request whose client has gone ends by itself."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end and not self._in_haste:
            await asyncio.sleep(0.1)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
