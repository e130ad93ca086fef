"""What the page shows beside the statistics: charge, power, and what is left of the budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..device.power import PowerSource, SensorError
from ..device.sensors import BatteryState, Sensors, discover, read_battery
from ..link.budget import Budget


class Condition:
    """Reads the device's sensors when asked. Not thread-safe; a reading may take a second.

    Args:
        budget: what the cloud may cost; None: nothing is counted.
        find: looks for power sensors, once.
        battery: reads the first battery.
        clock: seconds.
    """

    def __init__(
        self,
        budget: Budget | None,
        find: Callable[[], Sensors] = discover,
        battery: Callable[[], BatteryState | None] = read_battery,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget, self._find, self._battery, self._clock = budget, find, battery, clock
        self._source: PowerSource | None = None
        self._looked = False
        self._last: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """`battery`, `watts` and `budget`; null is what is not measured or not capped."""
        cell, battery = self._battery(), None
        if cell is not None and cell.percent is not None:
            battery = {"percent": cell.percent, "status": cell.status}
        return {"battery": battery, "watts": self._watts(), "budget": self._left()}

    def _watts(self) -> float | None:
        """Of the best sensor; of one that counts joules, the mean since the last look."""
        if not self._looked:
            self._looked = True
            sources = self._find().sources
            self._source = sources[0] if sources else None
        if self._source is None:
            return None
        try:
            value, now = self._source.read(), self._clock()
        except SensorError:
            return None
        if self._source.quantity == "watts":
            return value
        last, self._last = self._last, (now, value)
        if last is None or now <= last[0]:
            return None
        return (value - last[1]) / (now - last[0])

    def _left(self) -> dict[str, Any] | None:
        """The caps, and how much of each is spent; without those that do not exist."""
        if self._budget is None:
            return None
        capped = {
            span: {name: count for name, count in counts.items() if count["cap"] is not None}
            for span, counts in self._budget.to_json().items()
        }
        return {span: counts for span, counts in capped.items() if counts} or None


def telling(condition: Condition) -> Callable[[Request], Awaitable[Response]]:
    """The handler of a route: one reading at a time, outside the event loop."""
    turn = asyncio.Lock()

    async def tell(_: Request) -> Response:
        async with turn:
            return JSONResponse(await run_in_threadpool(condition.to_json))

    return tell
