"""A device slowed down to the speed of a larger model, so that a small pair's decisions can be
timed as if the device ran that model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...common.errors import UsageError
from ...edge.cache import TokenCache
from ...edge.chat.assistant import Assistant
from ...lm.engines.protocol import Engine, Logits
from ..harness.wrapped import WrappedEngine

__all__ = ["SlowEngine", "slow_device"]


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


def slow_device(assistant: Assistant, seconds: float) -> None:
    """Make the assistant's device take at least `seconds` for each id that it decodes.

    Raises:
        UsageError: a time that is not above 0, or above 10 s.
    """
    device = assistant.device
    engine = SlowEngine(device.cache.engine, seconds)
    assistant.device = replace(device, cache=TokenCache(engine))
