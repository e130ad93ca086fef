"""Record a power source against a monotonic clock, and integrate what was recorded.

A recorder is filled by `take()`. In a measurement a thread calls it at a fixed rate and the
measured code calls it once at each border of a phase, so that a border is always a sample.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import stdev

from ...common.errors import UsageError
from ...edge.device.power import PowerSource, SensorError

MAX_WATTS = 3000.0
"""No device this is meant for draws more: a reading above is a fault of the sensor."""

Clock = Callable[[], float]
Sampling = Callable[["Recorder"], AbstractContextManager[None]]


@dataclass
class Recorder:
    """Samples of one source. Thread-safe; after the first failed reading it stays as it is.

    `beside` records a second source of the same device at the same moments, to compare with.
    """

    source: PowerSource
    clock: Clock = time.monotonic
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    """Watts or joules, as the source says."""
    beside: Recorder | None = None
    failure: str | None = None
    """Why the sensor stopped answering, with the time since the first sample."""
    _changed: float = -1e9
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> float:
        """Take one sample and return the time now. A failing sensor is noted, never raised."""
        at = self._take()
        if self.beside is not None:
            self.beside.take()
        return at

    def _take(self) -> float:
        with self._lock:
            before = self.clock()
            if self.failure is not None:
                return before
            try:
                value = self.source.read()
            except SensorError as error:
                start = self.times[0] if self.times else before
                self.failure = f"after {before - start:.1f} s: {error}"
                return before
            after = self.clock()
            at = (before + after) / 2
            if self.times and at <= self.times[-1]:
                return after  # the clock has not moved: the sample would have no width
            why = self._implausible(at, value)
            if why is not None:
                self.failure = f"after {at - (self.times or [at])[0]:.1f} s: {why}"
                return after
            if not self.times:
                self._changed = at
            self.times.append(at)
            self.values.append(value)
            return at

    def _implausible(self, at: float, value: float) -> str | None:
        if self.source.quantity == "watts":
            return None if 0 < value < MAX_WATTS else f"the sensor reports {value:g} W"
        if not self.times or value == self.values[-1]:
            return None
        # A gauge may count in large steps, so a step is held against at least one second.
        watts = (value - self.values[-1]) / max(at - self._changed, 1.0)
        self._changed = at
        if watts < 0:
            return "the counter went back"
        return None if watts < MAX_WATTS else f"the counter jumped by {watts:g} W"

    def joules(self, start: float, end: float) -> float | None:
        """Energy between two times by the trapezoid rule; None where no sample covers them."""
        if not self.times or start < self.times[0] or end > self.times[-1] or end <= start:
            return None
        if self.source.quantity == "joules":
            return self._at(end) - self._at(start)
        inside = [(t, v) for t, v in zip(self.times, self.values, strict=True) if start < t < end]
        points = [(start, self._at(start)), *inside, (end, self._at(end))]
        return sum(
            (right[0] - left[0]) * (left[1] + right[1]) / 2 for left, right in pairwise(points)
        )

    def watts(self, start: float, end: float) -> float | None:
        """Mean power between two times."""
        joules = self.joules(start, end)
        return None if joules is None else joules / (end - start)

    def spread(self, start: float, end: float) -> float | None:
        """Standard deviation of the mean power of whole seconds; None below three of them."""
        seconds = range(int(end - start))
        means = [self.watts(start + second, start + second + 1) for second in seconds]
        known = [mean for mean in means if mean is not None]
        return stdev(known) if len(known) >= 3 else None

    def samples_between(self, start: float, end: float) -> int:
        """How many samples lie in a closed interval."""
        return sum(1 for t in self.times if start <= t <= end)

    def changes_between(self, start: float, end: float) -> int:
        """How often the reading changed: a slow gauge repeats itself."""
        seen = [v for t, v in zip(self.times, self.values, strict=True) if start <= t <= end]
        return sum(1 for a, b in pairwise(seen) if a != b)

    def largest_gap(self, start: float, end: float) -> float | None:
        """The longest time without a sample in an interval, seconds."""
        seen = [t for t in self.times if start <= t <= end]
        return max((b - a for a, b in pairwise(seen)), default=None)

    def _at(self, t: float) -> float:
        """The reading at a time, by linear interpolation between its neighbours."""
        right = min(bisect_right(self.times, t), len(self.times) - 1)
        left = max(right - 1, 0)
        t0, t1 = self.times[left], self.times[right]
        if t1 == t0:
            return self.values[left]
        share = (t - t0) / (t1 - t0)
        return self.values[left] + share * (self.values[right] - self.values[left])


def background_sampling(
    hz: float = 20.0,
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    also: Callable[[], None] | None = None,
) -> Sampling:
    """How to fill a recorder from a thread, `hz` times a second; `also` runs once a second.

    `wait(stop, seconds)` pauses and returns whether to stop. Raises UsageError below 10 Hz.
    """
    if not 10 <= hz <= 1000:
        raise UsageError(f"sampling at {hz:g} Hz: 10 to 1000 are possible")
    return lambda recorder: background(recorder, 1 / hz, wait, also)


@contextmanager
def background(
    recorder: Recorder,
    period: float,
    wait: Callable[[threading.Event, float], bool],
    also: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Fill `recorder` every `period` seconds until the block ends."""
    stop = threading.Event()
    every = max(1, round(1 / period))

    def loop() -> None:
        due = recorder.clock()
        count = 0
        while True:
            recorder.take()
            if also is not None and count % every == 0:
                also()
            count += 1
            due += period
            now = recorder.clock()
            due = max(due, now)  # after a pause go on, do not catch up
            if wait(stop, due - now):
                return

    thread = threading.Thread(target=loop, name="power-sampler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5.0)
