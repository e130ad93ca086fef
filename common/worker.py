"""A thread that does one job after another: owner of a context, or of a connection."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Full(Exception):
    """The queue is as long as it may be."""


class Closed(Exception):
    """The worker is stopping and takes nothing new."""


class Worker:
    """Runs jobs one after another in a thread of its own.

    Args:
        name: of the thread.
        limit: how many jobs may wait.
    """

    def __init__(self, name: str, limit: int = 64) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._limit = limit
        self._lock = threading.Lock()  # nothing is submitted after the last job
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[int], T]) -> Future[T]:
        """Run `job(microseconds waited)` later.

        Raises:
            Full: too many jobs wait.
            Closed: it is stopping.
        """
        future: Future[T] = Future()
        queued = time.perf_counter()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = job(int((time.perf_counter() - queued) * 1e6))
            except BaseException as error:  # whatever it is belongs to whoever asked
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            if self._closed:
                raise Closed
            if self._jobs.qsize() >= self._limit:
                raise Full
            self._jobs.put(run)
        return future

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self.retire()
        self._thread.join()

    def retire(self) -> None:
        """Take nothing new, and end after what was submitted, without waiting for that."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
