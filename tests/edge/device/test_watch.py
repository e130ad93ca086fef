"""A device short of charge or hot is noticed, and asks the cloud less until it has recovered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uhlm_edge.edge.device.watch import Watch
from uhlm_edge.edge.policy.policies import Always, UncertainAbove
from uhlm_edge.edge.policy.sparing import Sparing
from uhlm_edge.edge.policy.strategy import Strategy

from ..doctor.boards import board, put, vcgencmd
from ..pairs import Reference, pair

PROMPT = [1, 2, 3]
BATTERY = "sys/class/power_supply/battery"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        self.now += 60.0
        return self.now


def test_a_battery_is_low_only_while_it_discharges_and_until_it_is_well_above(
    tmp_path: Path,
) -> None:
    root = board(tmp_path, "pi4")
    watch = Watch(charge=30, root=root, runner=vcgencmd("throttled=0x0"), clock=Clock())
    assert watch() is None
    put(root, f"{BATTERY}/capacity", "29")
    assert watch() == "the battery is at 29 %"
    put(root, f"{BATTERY}/capacity", "33")
    assert watch() == "the battery is at 33 %"
    put(root, f"{BATTERY}/capacity", "36")
    assert watch() is None
    put(root, f"{BATTERY}/capacity", "10")
    put(root, f"{BATTERY}/status", "Charging")
    assert watch() is None


def test_heat_and_throttling_are_noticed_each_if_asked_for(tmp_path: Path) -> None:
    root = board(tmp_path, "pi5")
    hot = Watch(celsius=60, root=root, runner=vcgencmd("throttled=0x0"), clock=Clock())
    assert hot() == "the device is at 62 degrees Celsius"
    put(root, "sys/class/thermal/thermal_zone0/temp", "57000")
    assert hot() == "the device is at 57 degrees Celsius"
    put(root, "sys/class/thermal/thermal_zone0/temp", "54000")
    assert hot() is None
    slowed = vcgencmd("throttled=0x4")
    assert Watch(celsius=90, root=root, runner=slowed, clock=Clock())() is None
    watch = Watch(throttled=True, root=root, runner=slowed, clock=Clock())
    assert watch() == "the device is slowed down (throttled)"


def test_the_device_is_looked_at_every_few_seconds_and_not_at_every_token(tmp_path: Path) -> None:
    root = board(tmp_path, "pi5")
    times = iter([0.0, 1.0, 9.0, 11.0])
    watch = Watch(
        celsius=60, root=root, runner=vcgencmd("throttled=0x0"), clock=lambda: next(times)
    )
    assert watch() is not None
    put(root, "sys/class/thermal/thermal_zone0/temp", "20000")
    assert watch() is not None
    assert watch() is not None
    assert watch() is None


def test_a_strained_device_uploads_nothing_and_says_why_once_and_when_it_is_over() -> None:
    said: list[str] = []
    reasons = iter([None] * 3 + ["it is hot"] * 5 + [None] * 100)
    policy = Sparing(Always(), lambda: next(reasons), None, said.append)
    with pair() as made:
        ids = made.ids(Strategy("hlm", policy), PROMPT)
        assert made.loops[0].stats.uploads == len(ids) - 5
    assert ids == Reference(PROMPT, 0).local_at({3, 4, 5, 6, 7})
    assert said == ["it is hot: no uploads", "the device has recovered: as before"]


def test_a_higher_threshold_meanwhile_keeps_the_most_uncertain_uploads() -> None:
    policy = Sparing(UncertainAbove(0.1), lambda: "it is hot", 0.6, lambda _: None)
    assert policy.needs == {"uncertainty"}
    assert policy.threshold == 0.1
    with pair() as made:
        ids = made.ids(Strategy("uhlm", policy), PROMPT)
    assert ids == Reference(PROMPT, 0).uhlm(0.6)
    assert policy.threshold == 0.6
