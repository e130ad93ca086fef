"""What the page is told of the device: what is measured, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from uhlm_edge.configs.config import BudgetOptions, Caps
from uhlm_edge.edge.api.condition import Condition, telling
from uhlm_edge.edge.device.power import Quantity, SensorError
from uhlm_edge.edge.device.sensors import BatteryState, Sensors
from uhlm_edge.edge.link.budget import Budget


class Source:
    """A sensor that reads what it is given, then fails."""

    name = label = "fake"

    def __init__(self, quantity: Quantity, *values: float) -> None:
        self.quantity: Quantity = quantity
        self._values = iter(values)

    def read(self) -> float:
        for value in self._values:
            return value
        raise SensorError("gone")


def condition(source: Source | None = None, cell: BatteryState | None = None) -> Condition:
    found = Sensors(() if source is None else (source,), {})
    seconds: Iterator[float] = iter(range(0, 100, 10))
    return Condition(None, lambda: found, lambda: cell, lambda: next(seconds))


def test_what_is_not_measured_is_null_and_never_zero() -> None:
    nothing = {"battery": None, "watts": None, "budget": None}
    assert condition().to_json() == nothing
    silent = BatteryState("BAT0", "Unknown", None, None, None)
    assert condition(Source("watts"), silent).to_json() == nothing


def test_watts_are_those_of_the_sensor_or_the_mean_since_the_last_look() -> None:
    told = condition(Source("watts", 4.5))
    assert told.to_json()["watts"] == 4.5
    counted = condition(Source("joules", 100.0, 130.0))
    assert [counted.to_json()["watts"] for _ in range(3)] == [None, 3.0, None]


def test_a_battery_has_its_charge_and_whether_it_discharges() -> None:
    cell = BatteryState("BAT0", "Discharging", 81.0, None, None)
    told = condition(cell=cell).to_json()["battery"]
    assert told == {"percent": 81.0, "status": "Discharging"}


def test_only_caps_that_exist_are_told_over_http(tmp_path: Path) -> None:
    budget = Budget(BudgetOptions(session=Caps(bytes=1000)), tmp_path / "budget.json")
    budget.spend(100, 3)
    app = Starlette(routes=[Route("/", telling(Condition(budget, lambda: Sensors((), {}))))])
    with TestClient(app) as client:
        told = client.get("/").json()
    assert told["budget"] == {"session": {"bytes": {"spent": 100, "cap": 1000}}}
    free = Budget(BudgetOptions(price_per_call=1.0), tmp_path / "budget.json")
    assert Condition(free, lambda: Sensors((), {}), lambda: None).to_json()["budget"] is None
