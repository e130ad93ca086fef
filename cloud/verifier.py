"""The verifier without HTTP: a context, its sessions, and the scheduler that serves them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from ..lm.engines.protocol import Context
from ..wire.messages import Conflict, Reply, Request
from .call import Outcome
from .driver import Driver
from .judge import Judge
from .metrics import Counters
from .scheduler import Scheduler
from .sessions import SessionKey, SessionStore


class Verifier:
    """The LLM's side of the method, for many sessions in one context.

    Args:
        context: the large model.
        n_ctx: ids that one session may hold.
        n_sequences: sessions that can be in the context at once.
        per_owner: how many of them one owner (API key) may have.
        wire_top: most ids in a distribution that is sent.
        clock: seconds, monotonic.
        n_prefixes: more sequences of the context, for beginnings that sessions share.
        parked_bytes: memory for keys and values of sessions that had to make room.
        idle_seconds: after which a session is forgotten.
        quantum: seconds that a busy session keeps its place when others want it.
        queue: calls that may wait or run.
    """

    def __init__(
        self,
        context: Context,
        n_ctx: int,
        n_sequences: int,
        per_owner: int = 64,
        wire_top: int = 64,
        clock: Callable[[], float] = time.perf_counter,
        n_prefixes: int = 0,
        parked_bytes: int = 0,
        idle_seconds: float = math.inf,
        quantum: float = 0.0,
        queue: int = 1024,
    ) -> None:
        self.n_ctx = n_ctx
        self.store = SessionStore(
            context, n_sequences, per_owner, n_prefixes, parked_bytes, idle_seconds, quantum, clock
        )
        judge = Judge(n_ctx, context.vocab.end_ids, min(64, context.max_rows), wire_top)
        self.scheduler = Scheduler(context, judge, self.store, queue, clock)
        self.driver = Driver(self.scheduler, self.store, clock)
        self._turn = threading.Lock()

    @property
    def counters(self) -> Counters:
        """What was done since the start."""
        return self.scheduler.counters

    def verify(self, key: SessionKey, request: Request) -> Reply | Conflict:
        """Answer one call; in the caller's thread, if no thread of its own does the steps.

        Raises:
            OutOfRange: the request does not fit the session or the context.
            EngineError: the model failed.
        """
        future: Future[Outcome] = Future()
        self.scheduler.submit(key, request, future.set_result)
        if not self.driver.has_thread:
            with self._turn:
                while not future.done():
                    self.scheduler.step()
        outcome = future.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
