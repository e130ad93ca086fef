"""The energy of the radio as a stated model: a sum of three terms, none with a default value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...common.errors import UsageError


@dataclass(frozen=True)
class RadioModel:
    """Joules = up x bytes up + down x bytes down + active x seconds busy.

    What a radio costs depends on the module, the network and the signal, so every coefficient is
    the user's. `active_w` is above what the device draws with the radio idle.
    """

    j_per_byte_up: float = 0.0
    j_per_byte_down: float = 0.0
    active_w: float = 0.0

    def __post_init__(self) -> None:
        values = (self.j_per_byte_up, self.j_per_byte_down, self.active_w)
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise UsageError("the radio model's coefficients must be finite and not negative")
        if not any(values):
            raise UsageError("a radio model needs at least one coefficient above 0")

    @property
    def label(self) -> str:
        """The model with its numbers, as printed beside its results."""
        return (
            f"model: {self.j_per_byte_up:g} J/B up, {self.j_per_byte_down:g} J/B down, "
            f"{self.active_w:g} W while active"
        )

    def joules(self, up: float, down: float, active_s: float) -> float:
        """Modelled energy in joules."""
        return self.j_per_byte_up * up + self.j_per_byte_down * down + self.active_w * active_s


def busy_seconds(calls: Sequence[tuple[float, float]], tail_s: float = 0.0) -> float:
    """Seconds in which a radio is busy with `calls` (start, end), each with a tail after it.

    A cellular radio stays at full power for `tail_s` seconds after the last byte; overlapping
    stretches count once.
    """
    total = 0.0
    until = -math.inf
    for start, end in sorted(calls):
        stop = end + tail_s
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total
