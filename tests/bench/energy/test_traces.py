"""Readings that follow a trace in a sensor's own format: gaps, drift, two sources of one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from uhlm_edge.bench.energy.measure import Phases, WorkDone

from .test_energy import RAIL, Bench, orin

__all__ = ["orin"]


def replayed(bench: Bench, trace: dict[str, Sequence[object]], per_reading: float = 0.5) -> None:
    """From now on let files say what a trace has for them, one value after another."""
    begun = bench.now

    def tick() -> None:
        at = int((bench.now - begun) / per_reading)
        for path, values in trace.items():
            bench.put(path, values[min(at, len(values) - 1)])

    bench.each_tick = tick
    tick()


def waits(bench: Bench, seconds: float) -> Callable[[Phases], WorkDone]:
    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            bench.wait(seconds)
        return WorkDone(0, 10)

    return run


def test_a_trace_with_a_gap_is_integrated_over_it_and_says_so(orin: Bench) -> None:
    """Readings of the INA3221 in milliamps; for a second nobody came to read."""
    replayed(orin, {RAIL: [*[1000, 1002] * 5, *[2000, 2002, 2000, 2004] * 3]})

    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            orin.wait(2)
            orin.now += 1.0
            orin.wait(2)
        return WorkDone(0, 10)

    report = orin.measure(run, idle_s=5.0)
    assert report.status == "measured"
    assert report.gross_j == pytest.approx(10 * 5, rel=0.02)
    assert any("1.1 s without a sample" in flag or "1.0 s without" in flag for flag in report.flags)


def test_a_trace_whose_baseline_drifts_is_flagged(orin: Bench) -> None:
    replayed(orin, {RAIL: [*range(1000, 1400, 40), *[2000, 2001] * 6]})
    report = orin.measure(waits(orin, 5), idle_s=5.0)
    assert [flag for flag in report.flags if "drifted from 5." in flag]
    replayed(orin, {RAIL: [*[1000, 1003] * 5, *[2000, 2001] * 6]})
    assert not orin.measure(waits(orin, 5), idle_s=5.0).flags


BATTERY = "sys/class/power_supply/BAT0/power_now"
PACKAGES = [f"sys/class/powercap/intel-rapl:{i}/energy_uj" for i in range(2)]


@pytest.mark.parametrize(
    ("milliwatts", "flagged"), [((6000, 12_000), False), ((6000, 4000), True)], ids=str
)
def test_a_processor_draws_no_more_than_the_whole_device(
    tmp_path: Path, milliwatts: tuple[int, int], flagged: bool
) -> None:
    """A laptop's gauge in microwatts beside its processor's counters in microjoules."""
    bench = Bench(tmp_path, "laptop")
    idle, busy = milliwatts
    counted = [*range(0, 22_000_000, 2_000_000), *range(24_000_000, 68_000_000, 4_000_000)]
    power = [1000 * w for w in [idle, idle + 1] * 5 + [busy, busy + 1] * 6]
    replayed(bench, {BATTERY: power, PACKAGES[0]: counted, PACKAGES[1]: [0]})
    report = bench.measure(waits(bench, 5), idle_s=5.0)
    said = [flag for flag in report.flags if "battery says" in flag and "rapl" in flag]
    assert bool(said) is flagged, report.flags


def test_a_second_source_that_fails_is_told_and_changes_no_number(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "laptop")

    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            for milliwatts in (12_000, 12_001, 12_000, 12_002):
                bench.put(BATTERY, 1000 * milliwatts)
                bench.wait(1)
            (bench.root / PACKAGES[0]).unlink()
            bench.wait(1)
        return WorkDone(0, 10)

    report = bench.measure(run, idle_s=2.0)
    assert report.status == "measured"
    assert any("rapl, to compare with, failed" in flag for flag in report.flags)
