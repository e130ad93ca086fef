"""Models slowed down to the speed of larger ones: a small pair's decisions in their time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...common.errors import UsageError
from ...edge.cache import TokenCache
from ...edge.chat.assistant import Assistant
from ...lm.engines.protocol import Engine, Logits, WrappedEngine


class SlowEngine(WrappedEngine):
    """An engine whose step of one id takes at least `seconds`; the rest of them it sleeps.

    Prompts are not slowed down. Sleeping leaves the processor to others, as a slow device's own
    processor would not: measure energy without it.
    """

    def __init__(
        self,
        engine: Engine,
        seconds: float,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (math.isfinite(seconds) and 0 < seconds <= 10):
            raise UsageError("the time per token of a slowed device lies between 0 and 10 s")
        super().__init__(engine)
        self._seconds = seconds
        self._clock, self._sleep = clock, sleep

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        end = self._clock() + self._seconds
        logits = super().eval(tokens, rows)
        if len(tokens) == 1:
            self._sleep(max(0.0, end - self._clock()))
        return logits


class PacedEngine(WrappedEngine):
    """An engine whose every pass takes at least `fixed` seconds and `each` for an id; it sleeps."""

    def __init__(self, engine: Engine, fixed: float, each: float) -> None:
        super().__init__(engine)
        self._fixed, self._each = fixed, each

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        end = time.perf_counter() + self._fixed + self._each * len(tokens)
        logits = super().eval(tokens, rows)
        time.sleep(max(0.0, end - time.perf_counter()))
        return logits


def paces(text: str) -> list[tuple[float, float]]:
    """Seconds per pass and per id of each model, from milliseconds like "20+1,4.7+0.94".

    Raises:
        UsageError: it says something else.
    """
    try:
        found = [tuple(float(ms) / 1e3 for ms in part.split("+")) for part in text.split(",")]
        return [(fixed, each) for fixed, each in found]
    except ValueError:
        raise UsageError(
            f"{text!r}: want milliseconds a pass and an id, as 20+1,4.7+0.94"
        ) from None


def slow_device(assistant: Assistant, seconds: float) -> None:
    """Make the assistant's device take at least `seconds` for each id that it decodes.

    Raises:
        UsageError: a time that is not above 0, or above 10 s.
    """
    device = assistant.device
    engine = SlowEngine(device.cache.engine, seconds)
    assistant.device = replace(device, cache=TokenCache(engine))
