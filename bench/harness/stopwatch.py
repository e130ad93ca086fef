"""Where the time of a token goes: stopwatches around the parts that the loop is given.

The loop itself is not touched: engine, sampler, estimator, policy and link are handed to it, so
each can be handed over inside a stopwatch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import PrivateAttr

from ...edge.chat.assistant import Assistant
from ...lm.row import Row
from ...lm.sampling import Distribution, Sampler

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
    estimator = _timed(device.estimator, watch, "uncertainty")
    assistant.device = replace(device, sampler=sampler, estimator=estimator)
    _time(device.cache.engine, watch, "decode", "eval", "truncate")
    _time(assistant.strategy.policy, watch, "policy", "upload", "observe")
    if not assistant.session.is_offline:
        _time(assistant.session.link, watch, "link", "info", "verify")
    return watch


def _timed(call: Callable[..., Any], watch: Stopwatch, part: str) -> Callable[..., Any]:
    def timed(*given: Any, **more: Any) -> Any:
        with watch.time(part):
            return call(*given, **more)

    return timed


def _time(target: object, watch: Stopwatch, part: str, *methods: str) -> None:
    """Let some methods of this very object be timed; others of its class are not."""
    for name in methods:
        vars(target)[name] = _timed(getattr(target, name), watch, part)


class _TimedSampler(Sampler):
    _watch: Stopwatch = PrivateAttr(default_factory=Stopwatch)

    def distribution(self, row: Row, wire_top: int = 64) -> Distribution:
        with self._watch.time("sampling"):
            return super().distribution(row, wire_top)
