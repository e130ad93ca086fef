"""Continuous batching: one owner has the context, and each pass serves all calls that wait.

    plan (take in, admit, pack)  ->  decode  ->  passed  ->  hand out

A call is a coroutine (`judge.py`) that wishes for rows. Short wishes of all calls go into the next
pass together; long ones, prompts mostly, follow in slices: no token waits for more than one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..common.errors import DeadlineExceeded, EngineError
from ..common.worker import Closed, Full
from ..lm.engines.protocol import Context, Logits
from ..wire.codec import OutOfRange, prefix_hash
from ..wire.messages import Conflict, Reply, Request, Timing
from .call import SHORT, Call, Inbox, Outcome, Part, by_length, pack
from .judge import Judge
from .metrics import Counters, Observed
from .pace import Pace
from .sessions import Session, SessionKey, SessionStore

_log = logging.getLogger("uhlm_edge.cloud")
_LATE = 0.6  # of the time that a device waits; then its call gets a place whatever that costs
_SOME = 4  # calls, after which the network has its turn

Rows = list[tuple[Call, Logits]]
"""Calls, and the rows that each of them wished for."""


class Scheduler:
    """Owner of the context.

    Args:
        context: the large model.
        judge: makes the coroutines.
        store: sessions and their places.
        limit: calls that may wait or run.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        context: Context,
        judge: Judge,
        store: SessionStore,
        limit: int = 1024,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.counters, self.observed, self.pace = Counters(), Observed(), Pace()
        self._context = context
        self._judge = judge
        self._store = store
        self._limit = limit
        self._clock = clock
        self.inbox: Inbox[Call | Callable[[], object] | None] = Inbox()
        self._waiting, self._running = list[Call](), list[Call]()
        self._open = 0  # calls submitted and not answered
        self._closed = False
        self._lock = threading.Lock()
        self._just_answered: set[SessionKey] = set()
        self._arrived = -math.inf  # when the newest call came

    # From any thread

    @property
    def open_calls(self) -> int:
        """Calls that wait or run."""
        return self._open

    def submit(
        self,
        key: SessionKey,
        request: Request,
        deliver: Callable[[Outcome], None],
        deadline: float = math.inf,
    ) -> Call:
        """Answer a call later.

        Args:
            key, request: whose session; checked by the wire.
            deliver: is told the outcome, in the owner's thread.
            deadline: nobody waits any longer then, in seconds of the scheduler's clock.

        Raises:
            Full: too many calls wait.
            Closed: it is stopping.
        """
        call = Call(key, request, self._clock(), deadline, deliver)
        with self._lock:
            if self._closed:
                raise Closed
            if self._open >= self._limit:
                raise Full
            self._open += 1
            self.inbox.put(call)
        return call

    def forget(self, key: SessionKey, done: Callable[[], None] = lambda: None) -> None:
        """Drop a session, but not during a pass, which reads the cells; the owner calls `done`."""

        def drop() -> None:
            self._store.drop(key)
            done()

        self.inbox.put(drop)

    @property
    def retry_after(self) -> float:
        """Seconds after which the calls of now will have been answered, at the present pace."""
        return self._open * self.pace.per_answer

    def close(self) -> None:
        """Take nothing new; what was submitted is answered."""
        with self._lock:
            self._closed = True
            self.inbox.put(None)

    # The steps, for one owner

    def step(self) -> bool:
        """One pass of the model and all that belongs to it; False if there is nothing to do."""
        parts = self.plan()
        if parts:
            for _ in self.hand_out(self.passed(parts, *self.decode(parts))):
                pass
        return bool(parts)

    @property
    def has_ended(self) -> bool:
        """Is it closed, and all answered?"""
        return self._closed and self._open == 0

    @property
    def has_waiting(self) -> bool:
        """Are there calls that wait for their session, or for room?"""
        return bool(self._waiting)

    def fail(self, error: Exception) -> None:
        """A fault of our own ends the calls of now, no more."""
        _log.exception("the scheduler failed")
        for call in [*self._running, *self._waiting]:
            self._end(call, error)
        self._running, self._waiting = [], []

    def go_on(self) -> None:
        """Wait for none of those that were just answered."""
        self._just_answered = set()

    def gather(self) -> Iterator[float]:
        """Seconds to wait, time and again, for those just answered: together they cost less."""
        self._take_in()
        here = {call.key for call in [*self._running, *self._waiting]}
        if not here:
            return
        missing = self._just_answered - here
        self._just_answered = set()
        begun, n = self._clock(), len(missing)
        quiet = self.pace.patience() if missing else 0.0
        while missing and (left := self.pace.left(quiet, begun, self._arrived, self._clock())) > 0:
            yield left
            self._take_in()
            missing -= {call.key for call in self._waiting}
        if quiet:
            self.pace.waited(1.0 - len(missing) / n)

    def plan(self, in_halves: bool = False) -> list[Part]:
        """Take in what came, begin what can begin, and say what goes into the next pass.

        With `in_halves` at most half of those with short wishes go into it: the others follow in
        the next, while the rows of these are handed out.
        """
        self._take_in()
        self._admit()
        return self._pack(in_halves)

    def decode(
        self, parts: list[Part], keep: bool = False
    ) -> tuple[list[Logits] | EngineError, float]:
        """One pass, and how long it took; with `keep` its rows stay when the next one begins."""
        begun = self._clock()
        blocks: list[Logits] | EngineError
        try:
            blocks = self._context.decode([part.work for part in parts], keep)
        except EngineError as error:
            blocks = error
        return blocks, self._clock() - begun

    def passed(self, parts: list[Part], blocks: list[Logits] | EngineError, seconds: float) -> Rows:
        """Take down what a pass did; returns the rows for the calls whose wish it fulfilled."""
        if isinstance(blocks, EngineError):
            for part in parts:
                self._end(part.call, blocks)
            return []
        self._note(parts, seconds)
        for part in parts:
            part.call.fed += len(part.work.tokens)
            part.call.model += seconds
        return [(part.call, rows) for part, rows in zip(parts, blocks, strict=True) if part.is_last]

    def hand_out(self, rows: Rows) -> Iterator[None]:
        """Give each call its rows, some calls at a time."""
        for i, (call, logits) in enumerate(rows, 1):
            if call.outcome is None:  # nor did its device hang up meanwhile
                self._resume(call, logits)
            if i % _SOME == 0 or i == len(rows):
                yield

    def _take_in(self) -> None:
        for item in self.inbox.drain():
            self._take(item)

    def _take(self, item: Call | Callable[[], object] | None) -> None:
        if isinstance(item, Call):
            self.counters.calls += 1
            self._arrived = item.arrived
            item.session = self._store.use(item.key)
            item.session.calls += 1
            self._waiting.append(item)
        elif item is not None:
            item()

    def _admit(self) -> None:
        """Begin waiting calls whose session is free and has, or gets, a place."""
        self._begin_some(self.pace.may_swap(self._clock()))
        if not self._running and self._waiting:
            self._begin_some(swap=True)  # better than to do nothing

    def _begin_some(self, swap: bool) -> None:
        waiting, self._waiting = self._in_turn(self._waiting), []
        is_full = False
        for call in waiting:
            session = call.session
            assert session is not None  # noqa: S101 - set when it was taken in
            if self._is_over(call):
                continue
            if session.forgotten:
                session = call.session = self._store.use(call.key)
                session.calls += 1
            is_late = self._clock() - call.arrived > _LATE * (call.deadline - call.arrived)
            if session.running or (is_full and session.sequence < 0 and not is_late):
                self._waiting.append(call)
                continue
            lost, copied = self._store.lost_ids, self._store.copy_seconds
            try:
                if not self._begin(call, session, swap or is_late):
                    self._waiting.append(call)
                    is_full = True
            except (OutOfRange, EngineError) as error:
                self._end(call, error)
            self.pace.swapped(self._store.lost_ids - lost, self._store.copy_seconds - copied)
            swap = swap and (not self._running or self.pace.may_swap(self._clock()))

    def _begin(self, call: Call, session: Session, swap: bool) -> bool:
        """Repeat, conflict, or the first wish; False if there is no room yet."""
        request = call.request
        prefix = prefix_hash(held := session.ids[: request.start])
        call.binding = request.binding(call.key[1], prefix)
        if session.last is not None and session.last.id == request.id:
            if session.last.binding != call.binding:
                raise OutOfRange(f"call {request.id} was answered, and had another content")
            self.counters.repeats += 1
            self._end(call, session.last)
            return True
        settings = request.settings or session.settings
        if settings is None or request.start > len(held) or not prefix.startswith(request.prefix):
            self.counters.conflicts += 1
            self._end(call, Conflict(len(session.ids), prefix_hash(session.ids)))
            return True
        text = held + list(request.tokens)
        if len(text) + request.bonus > self._judge.n_ctx:
            raise OutOfRange(f"the text is longer than the context of {self._judge.n_ctx} tokens")
        if not self._store.seat(call.key, text, len(text) + request.bonus, swap):
            return False
        if request.settings is not None and request.settings.slide:
            self._store.slide(session, text)
        self._running.append(call)
        self.observed.queue.observe(self._clock() - call.arrived)
        call.steps = self._judge.answer(session, request, settings)
        self._resume(call, None)
        return True

    def _pack(self, in_halves: bool) -> list[Part]:
        """The next pass."""
        self._running = [call for call in self._running if not self._is_over(call)]
        asking = [call for call in self._running if call.left]  # others are given rows just now
        short, long = by_length(self._in_turn(asking), self._context.n_batch)
        if in_halves:
            short = short[: -(-len(self._running) // 2)]
        budget = self.pace.slice(self._context.n_batch, len(short), self._clock())
        return pack(short, long, self._context.n_batch, self._context.max_rows, budget)

    def _resume(self, call: Call, rows: Logits | None) -> None:
        """Send the rows into the call, and see what it wishes for next."""
        assert call.steps is not None and call.session is not None  # noqa: S101, PT018
        try:
            ask = next(call.steps) if rows is None else call.steps.send(rows)
        except StopIteration as over:
            self._end(call, over.value)
            return
        except Exception as error:  # whatever it is belongs to whoever asked
            self._end(call, error)
            return
        if ask.at < self._context.length(call.session.sequence):
            self._context.truncate(ask.at, call.session.sequence)
        call.ask, call.fed = ask, 0

    def _is_over(self, call: Call) -> bool:
        """Does nobody wait for it any more? Then it costs no further pass."""
        if call.gone or self._clock() > call.deadline:
            self.counters.dropped += 1
            self._end(call, DeadlineExceeded("the device waits no longer"))
            return True
        return False

    def _end(self, call: Call, outcome: Outcome) -> None:
        """Give the call its answer and its session back."""
        session = call.session
        assert session is not None  # noqa: S101 - set when it was taken in
        if call.steps is not None:
            self._running = [other for other in self._running if other is not call]
            if not isinstance(outcome, Reply):
                call.steps.close()
                if call.fed and call.ask.at <= len(session.ids):
                    # What was read meanwhile is not lost.
                    session.ids = session.ids[: call.ask.at] + call.ask.tokens[: call.fed]
            else:
                total = self._clock() - call.arrived
                us = Timing(int(1e6 * max(0.0, total - call.model)), int(1e6 * call.model))
                outcome = replace(outcome, binding=call.binding, us=us)
                session.settings = call.request.settings or session.settings
                session.last = outcome
                self.counters.judged(call.request, outcome)
            self._store.release(call.key, session)
        session.calls -= 1
        with self._lock:
            self._open -= 1
        self.pace.answered(self._clock(), self._open)
        self._just_answered.add(call.key)
        call.outcome = outcome
        call.deliver(outcome)

    def _in_turn(self, calls: list[Call]) -> list[Call]:
        """Who had least so far comes first, and within an owner who came first."""
        if len({call.key[0] for call in calls}) < 2:
            return calls
        return sorted(calls, key=lambda call: (self.pace.served(call.key[0]), call.arrived))

    def _note(self, parts: list[Part], seconds: float) -> None:
        """Learn what passes cost, and who had how much of them."""
        n = sum(len(part.work.tokens) for part in parts)
        self.counters.passes += 1
        self.counters.positions += n
        self.observed.width.observe(len(parts))
        self.observed.model.observe(seconds)
        self.pace.passed(seconds, n, all(len(part.call.ask.tokens) <= SHORT for part in parts))
        self.pace.fade(self._clock())
        for part in parts:
            self.pace.serve(part.call.key[0], len(part.work.tokens))
