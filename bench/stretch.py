"""A device slowed down to the pace of a larger model, so that a small pair's decisions can be
timed as if the device ran that model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..edge.assistant import Assistant
from ..edge.tape import Tape
from ..lm.engine import Engine, Logits
from ..lm.errors import UsageError
from ..lm.vocab import Vocabulary

__all__ = ["StretchedEngine", "stretch_device"]


class StretchedEngine:
    """An engine whose step of one id takes at least `seconds`; the rest of them it sleeps.

    Prompts are not stretched. Sleeping leaves the processor to others, as a slow device's own
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
            raise UsageError("the time per token of a stretched device lies between 0 and 10 s")
        self._engine, self._seconds = engine, seconds
        self._clock, self._sleep = clock, sleep

    @property
    def vocab(self) -> Vocabulary:
        return self._engine.vocab

    @property
    def n_ctx(self) -> int:
        return self._engine.n_ctx

    @property
    def length(self) -> int:
        return self._engine.length

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        end = self._clock() + self._seconds
        logits = self._engine.eval(tokens, rows)
        if len(tokens) == 1:
            self._sleep(max(0.0, end - self._clock()))
        return logits

    def truncate(self, n: int) -> None:
        self._engine.truncate(n)

    def close(self) -> None:
        self._engine.close()


def stretch_device(assistant: Assistant, seconds: float) -> None:
    """Make the assistant's device take at least `seconds` for each id that it decodes.

    Raises:
        UsageError: a time that is not above 0, or above 10 s.
    """
    device = assistant.device
    engine = StretchedEngine(device.tape.engine, seconds)
    assistant.device = replace(device, tape=Tape(engine))
