"""Drives a scheduler in an event loop: when a pass is made, and what is done meanwhile.

Only the passes run in another thread, without the interpreter's lock. All else shares a thread with
the network: none waits for a lock.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from .call import SHORT, Part
from .scheduler import Rows, Scheduler
from .sessions import SessionStore

_QUICK = 0.01  # seconds of a pass, after which the network has its turn
_LOOK_AGAIN, _SWEEP = 0.02, 5.0  # seconds, while calls wait for room, and while none do


class Driver:
    """The owner of a scheduler and its store.

    Args:
        scheduler, store: of a verifier.
        clock: seconds, monotonic.
    """

    def __init__(
        self, scheduler: Scheduler, store: SessionStore, clock: Callable[[], float]
    ) -> None:
        self._scheduler = scheduler
        self._store = store
        self._clock = clock
        self._ended = math.inf  # when a pass did, if nothing but calls was waited for since
        self._thread: threading.Thread | None = None

    @property
    def has_thread(self) -> bool:
        """Does a thread of its own drive?"""
        return self._thread is not None

    def start(self) -> None:
        """Drive in an event loop in a thread of its own."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.run()), name="uhlm-scheduler", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Let nothing new in; what was submitted is answered, then `run` ends."""
        self._scheduler.close()
        if self._thread is not None:
            self._thread.join()

    async def run(self) -> None:
        """Drive in this event loop, until the scheduler is closed and all is answered.

        With many calls the rows of a pass are handed out during the next one: half of the devices
        are answered while the model works for the other half.
        """
        with ThreadPoolExecutor(1, "uhlm-model") as model:
            rows: Rows = []  # of the last pass, not handed out yet
            while not self._scheduler.has_ended:
                try:
                    rows = await self._turn(model, rows)
                except Exception as error:
                    rows = []
                    self._scheduler.fail(error)

    async def _turn(self, model: Executor, rows: Rows) -> Rows:
        """One pass; returns those of its rows that are to be handed out during the next."""
        scheduler, pace = self._scheduler, self._scheduler.pace
        if rows:
            scheduler.go_on()
        else:
            for left in scheduler.gather():
                await scheduler.inbox.listen(left)
        n = scheduler.open_calls
        is_ahead = pace.is_ahead(n)
        parts = scheduler.plan(in_halves=is_ahead)
        if parts:
            pace.around(self._clock() - self._ended, n)
        self._ended = math.inf
        if not parts:
            await self._hand_out(rows)
            if not rows:
                self._store.sweep()
                await scheduler.inbox.listen(_LOOK_AGAIN if scheduler.has_waiting else _SWEEP)
            return []
        if not rows and self._is_quick(parts):
            passed, is_ahead = scheduler.decode(parts), False
        else:
            loop = asyncio.get_running_loop()
            passing = loop.run_in_executor(model, scheduler.decode, parts, is_ahead)
            try:
                await self._hand_out(rows)
            finally:
                passed = await passing
        rows = scheduler.passed(parts, *passed)
        if is_ahead:
            return rows
        self._ended = self._clock()
        await self._hand_out(rows)
        return []

    async def _hand_out(self, rows: Rows) -> None:
        """The network may send some answers while others are made."""
        for _ in self._scheduler.hand_out(rows):
            await asyncio.sleep(0)

    def _is_quick(self, parts: list[Part]) -> bool:
        """Is it a short pass for the only call there is?

        To wake the thread, and be woken, would take a good part of a millisecond.
        """
        only = self._scheduler.open_calls == len(parts) == 1 and len(parts[0].work.tokens) <= SHORT
        return only and self._scheduler.pace.short_pass < _QUICK
