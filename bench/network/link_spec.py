"""What a slow link does to bytes, and when each of them gets through."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from ...common.errors import UsageError


@dataclass(frozen=True)
class LinkSpec:
    """A link between device and verifier; the same in both directions but for the rates."""

    delay_ms: float = 25.0
    """One way: a round trip has two of them."""
    jitter_ms: float = 0.0
    """The delay varies evenly by as much up and down."""
    loss: float = 0.0
    """Share of packets that are lost."""
    up_bps: float | None = None
    """Bits per second from the device; None: no limit."""
    down_bps: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(n) and n >= 0 for n in (self.delay_ms, self.jitter_ms)):
            raise UsageError("delay and jitter of a link must be finite and not negative")
        if self.jitter_ms > self.delay_ms:
            raise UsageError("the jitter of a link cannot exceed its delay")
        if not 0 <= self.loss < 1:
            raise UsageError("the loss of a link is a share from 0 to below 1")
        for rate in (self.up_bps, self.down_bps):
            if rate is not None and not (math.isfinite(rate) and rate >= 1000):
                raise UsageError("the rate of a link must be at least 1000 bits per second")

    def netem(self, up: bool) -> list[str]:
        """The arguments that make `tc` do this in one direction."""
        words = ["delay", f"{self.delay_ms:g}ms"]
        if self.jitter_ms:
            words += [f"{self.jitter_ms:g}ms"]
        if self.loss:
            words += ["loss", f"{100 * self.loss:g}%"]
        rate = self.up_bps if up else self.down_bps
        if rate is not None:
            words += ["rate", f"{rate:.0f}bit"]
        return words


@dataclass
class Lane:
    """One direction of a link: sizes in, times of arrival out. Pure but for its random numbers."""

    spec: LinkSpec
    rate_bps: float | None
    seed: int = 0
    _free_at: float = field(init=False, default=-math.inf)
    _last: float = field(init=False, default=-math.inf)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - not a secret

    def arrival(self, now: float, size: int) -> float:
        """When the last of `size` bytes handed over at `now` arrives, in seconds.

        Bytes queue for the line, then take the delay. Order is kept: with jitter, none overtakes.
        """
        self._free_at = max(self._free_at, now)
        if self.rate_bps is not None:
            self._free_at += 8 * size / self.rate_bps
        jitter = self.spec.jitter_ms * (2 * self._random.random() - 1)
        self._last = max(self._last, self._free_at + (self.spec.delay_ms + jitter) / 1000)
        return self._last
