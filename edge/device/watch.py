"""Is the device short of charge or too hot? Asked at every draft, looked up every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from .power import Runner, run_command
from .sensors import read_battery
from .thermal import read_heat

_EVERY = 10.0  # seconds between two looks: a few files, and on a Pi one command
_BACK = 5.0  # degrees and percent beyond the limit until it is over, so that it does not flap


class Watch:
    """Called, it returns why the device should be spared now, or None.

    Args:
        charge: percent below which a battery that discharges is low; None: not looked at.
        celsius: degrees from which the device is hot; None: not looked at.
        throttled: also when the firmware slows it down or a zone is at its limit.
        root, runner, clock: of the device; a test makes them up.
    """

    def __init__(
        self,
        charge: float | None = None,
        celsius: float | None = None,
        throttled: bool = False,
        root: Path = Path("/"),
        runner: Runner = run_command,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._charge = charge
        self._celsius = celsius
        self._throttled = throttled
        self._root = root
        self._runner = runner
        self._clock = clock
        self._next = float("-inf")
        self._reason: str | None = None

    def __call__(self) -> str | None:
        now = self._clock()
        if now >= self._next:
            self._next = now + _EVERY
            self._reason = self._battery() or self._heat()
        return self._reason

    def _battery(self) -> str | None:
        if self._charge is None:
            return None
        battery = read_battery(self._root)
        if battery is None or battery.percent is None or battery.status != "Discharging":
            return None
        limit = self._charge + (_BACK if self._reason else 0.0)
        if battery.percent >= limit:
            return None
        return f"the battery is at {battery.percent:.0f} %"

    def _heat(self) -> str | None:
        if self._celsius is None and not self._throttled:
            return None
        heat = read_heat(self._root, self._runner)
        limit = (self._celsius or 0.0) - (_BACK if self._reason else 0.0)
        if self._celsius is not None and heat.hottest is not None and heat.hottest >= limit:
            return f"the device is at {heat.hottest:.0f} degrees Celsius"
        causes = [*(heat.throttled_now or ()), *heat.trip]
        if self._throttled and causes:
            return f"the device is slowed down ({', '.join(causes)})"
        return None
