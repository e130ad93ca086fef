"""Where the time of a token goes: stopwatches around the parts that the loop is given.

The loop itself is not touched: engine, sampler, estimator, policy and link are handed to it, so
each can be handed over inside a stopwatch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from ...edge.cache import TokenCache
from ...edge.chat.assistant import Assistant
from ...edge.events import Draft, SkippedVerdict
from ...edge.link.protocol import Deadline, Link, WrappedLink
from ...edge.policy.policies import Policy
from ...lm.draws import Draws
from ...lm.engines.protocol import Engine, Logits
from ...lm.engines.wrapped import WrappedEngine
from ...lm.row import Row
from ...lm.sampling import Distribution, Sampler
from ...lm.uncertainty import Estimator

if TYPE_CHECKING:
    from ...wire.messages import Conflict, Info, Reply, Request

PARTS = ("decode", "sampling", "uncertainty", "policy", "link")
"""`link` runs beside the loop; the loop's own waiting for it is in its statistics."""


@dataclass
class Stopwatch:
    """Seconds spent in each part so far, and when the link was busy."""

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    calls: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Count the time of the block for `part`."""
        start = self.clock()
        try:
            yield
        finally:
            end = self.clock()
            self.seconds[part] += end - start
            if part == "link":
                self.calls.append((start, end))


def instrument(assistant: Assistant, watch: Stopwatch | None = None) -> Stopwatch:
    """Put stopwatches around the parts of an assistant. What it writes does not change."""
    watch = watch or Stopwatch()
    device = assistant.device
    sampler = _TimedSampler(**device.sampler.model_dump())
    sampler._watch = watch
    assistant.device = replace(
        device,
        cache=TokenCache(_TimedEngine(device.cache.engine, watch)),
        sampler=sampler,
        estimator=_timed_estimator(device.estimator, watch),
    )
    assistant.strategy = replace(
        assistant.strategy, policy=_TimedPolicy(assistant.strategy.policy, watch)
    )
    if not assistant.session.is_offline:
        assistant.session.link = _TimedLink(assistant.session.link, watch)
    return watch


class _TimedEngine(WrappedEngine):
    def __init__(self, engine: Engine, watch: Stopwatch) -> None:
        super().__init__(engine)
        self._watch = watch

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        with self._watch.time("decode"):
            return super().eval(tokens, rows)

    def truncate(self, n: int) -> None:
        with self._watch.time("decode"):
            super().truncate(n)


class _TimedSampler(Sampler):
    _watch: Stopwatch = PrivateAttr(default_factory=Stopwatch)

    def distribution(self, row: Row, wire_top: int = 64) -> Distribution:
        with self._watch.time("sampling"):
            return super().distribution(row, wire_top)


def _timed_estimator(estimator: Estimator, watch: Stopwatch) -> Estimator:
    def timed(
        row: Row,
        draft: int,
        thetas: NDArray[np.float64],
        perturbs: NDArray[np.float64],
    ) -> float:
        with watch.time("uncertainty"):
            return estimator(row, draft, thetas, perturbs)

    return timed


class _TimedPolicy:
    def __init__(self, policy: Policy, watch: Stopwatch) -> None:
        self._policy, self._watch = policy, watch

    @property
    def needs(self) -> frozenset[str]:
        return self._policy.needs

    @property
    def audit_after(self) -> int | None:
        return self._policy.audit_after

    @property
    def threshold(self) -> float | None:
        return self._policy.threshold

    def upload(self, draft: Draft, draws: Draws) -> bool:
        with self._watch.time("policy"):
            return self._policy.upload(draft, draws)

    def observe(self, judged: SkippedVerdict) -> None:
        with self._watch.time("policy"):
            self._policy.observe(judged)

    def save(self) -> None:
        self._policy.save()


class _TimedLink(WrappedLink):
    def __init__(self, link: Link, watch: Stopwatch) -> None:
        super().__init__(link)
        self._watch = watch

    def info(self, deadline: Deadline) -> Info:
        with self._watch.time("link"):
            return super().info(deadline)

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        with self._watch.time("link"):
            return super().verify(session_id, request, n_vocab, deadline)
