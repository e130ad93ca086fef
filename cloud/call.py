"""A call under way, what of it goes into one pass, and where things wait for the model's owner."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from ..lm.engines.protocol import Work
from ..wire.messages import Conflict, Reply, Request
from .judge import Answer, Ask
from .sessions import Session, SessionKey

T = TypeVar("T")

Outcome = Reply | Conflict | Exception
SHORT = 32
"""Ids: a wish for more is a long one."""

_NOTHING = Ask(0, [], 0)


@dataclass(eq=False)
class Call:
    """A call under way.

    Attributes:
        key: whose session.
        request: checked by the wire.
        arrived, deadline: seconds of the scheduler's clock; nobody waits past the deadline.
        deliver: is told the outcome, in the owner's thread; it must neither wait nor raise.
        outcome: None until there is one.
        gone: its caller has hung up; set from any thread.
        session: set when the scheduler takes it in.
        binding: of the request to its session, and to what that holds; set when it begins.
        steps: the coroutine, once it runs.
        ask: what it wishes for.
        fed: how many ids of that are cached.
        model: seconds of the passes that it took part in.
    """

    key: SessionKey
    request: Request
    arrived: float
    deadline: float
    deliver: Callable[[Outcome], None]
    outcome: Outcome | None = None
    gone: bool = False
    session: Session | None = None
    binding: bytes = b""
    steps: Answer | None = None
    ask: Ask = _NOTHING
    fed: int = 0
    model: float = 0.0

    @property
    def left(self) -> int:
        """Ids that are still to be fed."""
        return len(self.ask.tokens) - self.fed

    @property
    def silent(self) -> int:
        """Those of them that need no row: they may be fed in slices."""
        return self.left - self.ask.rows


class Part(NamedTuple):
    """What of a call's wish goes into a pass."""

    call: Call
    work: Work
    is_last: bool

    @staticmethod
    def of(call: Call, n: int) -> Part:
        """The next `n` ids of the wish; its rows come with the last of them."""
        assert call.session is not None  # noqa: S101 - it runs
        is_last = n == call.left
        tokens = call.ask.tokens[call.fed : call.fed + n]
        return Part(
            call, Work(call.session.sequence, tokens, call.ask.rows if is_last else 0), is_last
        )


def by_length(calls: Sequence[Call], n_batch: int) -> tuple[list[Call], list[Call]]:
    """Those with short wishes, which go whole, and those that can go in slices."""
    most = min(SHORT, n_batch)
    short = [call for call in calls if len(call.ask.tokens) <= most or call.silent <= 0]
    return short, [call for call in calls if len(call.ask.tokens) > most and call.silent > 0]


def pack(
    short: Sequence[Call], long: Sequence[Call], n_ids: int, n_rows: int, budget: int
) -> list[Part]:
    """One pass: short wishes whole, then slices of the long ones, as far as they fit.

    Args:
        short, long: in turn.
        n_ids, n_rows: that fit into a pass.
        budget: most ids of the long ones.
    """
    parts: list[Part] = []
    for call in short:
        if call.left <= n_ids and call.ask.rows <= n_rows:
            parts.append(Part.of(call, call.left))
            n_ids, n_rows = n_ids - call.left, n_rows - call.ask.rows
    n_ids = min(n_ids, budget)
    for call in long:
        n = call.left if call.left <= n_ids and call.ask.rows <= n_rows else 0
        n = n or min(n_ids, call.silent)
        if n:
            parts.append(Part.of(call, n))
            n_ids, n_rows = n_ids - n, n_rows - parts[-1].work.rows
    return parts


class Inbox(Generic[T]):
    """A queue with a bell."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._bell: asyncio.Event | None = None  # while somebody listens
        self._home = 0  # the thread of whoever listens

    def put(self, item: T) -> None:
        """From any thread."""
        self._items.put(item)
        bell = self._bell
        if bell is None:
            return
        if threading.get_ident() == self._home:
            bell.set()
        else:
            self._loop.call_soon_threadsafe(bell.set)

    def drain(self) -> Iterator[T]:
        """All that is there."""
        while not self._items.empty():
            yield self._items.get()

    async def listen(self, seconds: float) -> None:
        """Until something is there, at most so long."""
        self._loop, self._home = asyncio.get_running_loop(), threading.get_ident()
        self._bell = bell = asyncio.Event()
        timer = self._loop.call_later(seconds, bell.set)
        try:
            if self._items.empty():  # looked at after the bell was hung
                await bell.wait()
        finally:
            self._bell = None
            timer.cancel()
