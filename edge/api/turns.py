"""Whose turn it is: one device model, many clients, each served in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Busy(Exception):
    """As many requests wait as may."""


class Turns:
    """Lets one in at a time. Clients take turns: many requests of one delay the others by one.

    Args:
        limit: how many may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the first is the next

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(len(each) for each in self._waiting.values())

    @property
    def taken(self) -> bool:
        """Is somebody being served?"""
        return self._taken

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for the turn of `client`, and have it while the context lasts.

        Raises:
            Busy: too many wait.
        """
        if self._taken:
            await self._wait(client)
        self._taken = True
        try:
            yield
        finally:
            self._next()

    async def _wait(self, client: str) -> None:
        if self.waiting >= self._limit:
            raise Busy
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._next()  # it was our turn, and we are gone
            raise

    def _next(self) -> None:
        while self._waiting:
            client = next(iter(self._waiting))
            queue = self._waiting.pop(client)
            first = queue.popleft()
            if queue:
                self._waiting[client] = queue  # to the end
            if not first.cancelled():
                first.set_result(None)
                return
        self._taken = False
