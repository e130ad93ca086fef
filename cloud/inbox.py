"""What waits for the owner of the context, who is a thread or an event loop."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue with a bell."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._bell: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """From any thread, or from the event loop that listens."""
        self._items.put(item)
        self.ring()

    def ring(self) -> None:
        """Let the event loop look."""
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def drain(self) -> Iterator[T]:
        """All that is there."""
        while not self._items.empty():
            yield self._items.get()

    def wait(self, seconds: float) -> list[T]:
        """In a thread: what comes next, if anything comes in that time."""
        try:
            return [self._items.get(timeout=seconds)]
        except queue.Empty:
            return []

    async def listen(self, seconds: float) -> None:
        """In an event loop: until something is put in, at most so long."""
        loop = asyncio.get_running_loop()
        self._bell = loop.create_future()
        timer = loop.call_later(seconds, self.ring)
        try:
            await self._bell
        finally:
            self._bell = None
            timer.cancel()
