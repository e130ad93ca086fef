"""Energy on made-up devices with made-up clocks: no test sleeps, no number is invented."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from uhlm_edge.bench.energy.measure import EnergyReport, Phases, WorkDone, measure_energy
from uhlm_edge.bench.energy.radio import RadioModel, busy_seconds
from uhlm_edge.bench.energy.recorder import Recorder
from uhlm_edge.common.errors import UsageError
from uhlm_edge.edge.device.power import SensorError

DATA = Path(__file__).parents[2] / "data"
RAIL = "sys/class/hwmon/hwmon1/curr1_input"


class Bench:
    """A made-up device whose clock moves only when told, sampled at 20 Hz of that clock."""

    def __init__(self, root: Path, device: str) -> None:
        self.root, self.now, self.recorder = root, 100.0, None
        for path, content in json.loads((DATA / "devices.json").read_text())[device].items():
            self.put(path, content)

    recorder: Recorder | None
    each_tick: Callable[[], None] = staticmethod(lambda: None)

    def put(self, path: str, content: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")

    def sampling(self, recorder: Recorder) -> AbstractContextManager[None]:
        @contextmanager
        def run() -> Iterator[None]:
            self.recorder = recorder
            yield

        return run()

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 20)):
            self.now += 0.05
            self.each_tick()
            if self.recorder is not None:
                self.recorder.take()

    def measure(self, workload: Callable[[Phases], WorkDone], **options: object) -> EnergyReport:
        return measure_energy(
            workload,
            sampling=self.sampling,
            root=self.root,
            runner=no_command,
            clock=lambda: self.now,
            pause=self.wait,
            **options,  # type: ignore[arg-type]
        )


def no_command(command: Sequence[str]) -> str:
    raise SensorError(f"{command[0]} is not installed")


def jetson_chat(bench: Bench) -> Callable[[Phases], WorkDone]:
    """1 s of prompt at 3 A, 4 s of generation at 2 A, on a 5 V rail that idles at 1 A."""

    def run(phases: Phases) -> WorkDone:
        with phases("prompt"):
            bench.put(RAIL, 3000)
            bench.wait(1)
        with phases("generation"):
            bench.put(RAIL, 2000)
            bench.wait(2)
            bench.put(RAIL, 2002)
            bench.wait(2)
        return WorkDone(prompt_tokens=50, generated_tokens=20)

    return run


@pytest.fixture
def orin(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, "jetson-orin")
    bench.put("sys/class/hwmon/hwmon1/in1_input", 5000)
    bench.put(RAIL, 1000)
    return bench


def test_energy_is_split_into_phases_and_the_idle_baseline_is_subtracted_and_shown(
    orin: Bench,
) -> None:
    report = orin.measure(jetson_chat(orin), idle_s=5.0)
    assert report.status == "measured"
    assert report.reason is None
    assert report.idle_w == pytest.approx(5.0)
    assert report.idle_s == pytest.approx(5.0)
    assert report.idle_sd_w == pytest.approx(0.0, abs=1e-6)
    assert report.prompt is not None
    assert report.generation is not None
    assert report.generation.gross_j == pytest.approx(10 * 4, rel=0.02)
    assert report.generation.net_j == pytest.approx(5 * 4, rel=0.03)
    assert report.generation.j_per_token == pytest.approx(1.0, rel=0.03)
    assert report.prompt.net_j == pytest.approx(10 * 1, rel=0.05)
    assert report.prompt.j_per_token == pytest.approx(0.2, rel=0.05)
    assert report.net_j == pytest.approx(30, rel=0.03)
    assert report.j_per_reply == report.net_j
    assert report.j_per_token == pytest.approx(1.5, rel=0.03)
    assert report.hz == pytest.approx(20, rel=0.02)
    assert report.flags == ()
    assert "VDD_IN" in str(report.row()["source"])


def test_a_cloud_machine_runs_the_workload_and_reports_null_with_reasons(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "cloud")
    report = bench.measure(jetson_chat(bench))
    assert report.status == "not measured"
    assert report.work == WorkDone(50, 20)
    assert report.seconds == pytest.approx(5.0)
    row = json.loads(json.dumps(report.row()))
    for name in ("idle_w", "gross_j", "net_j", "j_per_token", "j_per_reply", "battery", "radio"):
        assert row[name] is None
    assert row["generation"]["gross_j"] is None
    assert row["generation"]["seconds"] == pytest.approx(4.0)
    assert "no battery" in row["reason"]
    assert "no INA3221" in row["generation"]["reason"]


def test_a_sensor_that_vanishes_in_the_middle_makes_the_result_partial_not_wrong(
    orin: Bench,
) -> None:
    def run(phases: Phases) -> WorkDone:
        with phases("prompt"):
            orin.put(RAIL, 3000)
            orin.wait(1)
        with phases("generation"):
            orin.wait(1)
            (orin.root / RAIL).unlink()
            orin.wait(3)
        return WorkDone(50, 20)

    report = orin.measure(run, idle_s=2.0)
    assert report.status == "partial"
    assert report.reason is not None
    assert "curr1_input is not there" in report.reason
    assert "after 4.0 s" in report.reason
    assert report.gross_j is None
    assert report.net_j is None
    assert report.j_per_token is None
    assert report.generation is not None
    assert report.generation.gross_j is None
    assert report.prompt is not None
    assert report.prompt.gross_j == pytest.approx(15, rel=0.05)


def test_a_sensor_that_comes_back_does_not_hide_that_it_was_gone(orin: Bench) -> None:
    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            orin.put(RAIL, 2000)
            orin.wait(1)
            (orin.root / RAIL).unlink()
            orin.wait(1)
            orin.put(RAIL, 2000)
            orin.wait(1)
        return WorkDone(0, 20)

    assert orin.measure(run, idle_s=2.0).status == "partial"


def test_a_counter_that_wraps_during_the_run_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "laptop")
    bench.put("sys/class/power_supply/BAT0/status", "Full")
    package = "sys/class/powercap/intel-rapl:0"
    span = 10_000_000
    bench.put(f"{package}/max_energy_range_uj", span)
    state = {"energy": 9_000_000.0, "watts": 2.0}

    def tick() -> None:
        state["energy"] = (state["energy"] + state["watts"] * 0.05 * 1e6) % span
        bench.put(f"{package}/energy_uj", int(state["energy"]))

    bench.each_tick = tick
    tick()

    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            state["watts"] = 12.0
            bench.wait(5)
        return WorkDone(0, 10)

    report = bench.measure(run, idle_s=3.0)
    assert report.status == "measured"
    assert report.idle_w == pytest.approx(2.0, rel=1e-3)
    assert report.net_j == pytest.approx(50.0, rel=1e-3)
    assert report.battery is not None
    assert report.battery["hours_of_chat"] is None  # a processor is not the whole laptop


def test_a_counter_that_is_reset_is_a_fault_and_not_a_wrap(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "laptop")
    bench.put("sys/class/power_supply/BAT0/status", "Full")
    counter = "sys/class/powercap/intel-rapl:0/energy_uj"

    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            bench.put(counter, 1_500_000)
            bench.wait(1)
            bench.put(counter, 0)
            bench.wait(1)
        return WorkDone(0, 10)

    report = bench.measure(run, idle_s=2.0)
    assert report.net_j is None
    assert report.reason is not None
    assert "jumped" in report.reason


def test_a_charger_plugged_in_during_the_run_ends_the_measurement(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "laptop")

    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            bench.put("sys/class/power_supply/BAT0/power_now", 20_000_000)
            bench.wait(1)
            bench.put("sys/class/power_supply/BAT0/status", "Charging")
            bench.wait(1)
        return WorkDone(0, 10)

    report = bench.measure(run, idle_s=2.0)
    assert report.status == "partial"
    assert report.reason is not None
    assert "charging" in report.reason


def test_a_ups_battery_gives_drain_and_hours_of_chat(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "pi4-ups")
    battery = "sys/class/power_supply/battery"

    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            for milliamps in (2000, 2001, 2002, 1997):
                bench.put(f"{battery}/current_now", -1000 * milliamps)
                bench.wait(5)
        bench.put(f"{battery}/charge_now", 7_990_000)
        return WorkDone(0, 40)

    report = bench.measure(run, idle_s=5.0)
    assert report.status == "measured"
    assert report.idle_w == pytest.approx(1.5 * 3.8)
    assert report.generation is not None
    assert report.generation.j_per_token == pytest.approx(0.5 * 3.8 * 20 / 40, rel=0.02)
    assert report.battery is not None
    assert report.battery["drained_wh"] == pytest.approx(0.038)
    assert report.battery["hours_of_chat"] == pytest.approx(38 / (2 * 3.8), rel=0.01)


def test_a_gauge_too_slow_for_a_phase_is_not_split(orin: Bench) -> None:
    def run(phases: Phases) -> WorkDone:
        orin.put(RAIL, 2000)
        orin.wait(1)
        with phases("prompt"):
            orin.wait(1)
        with phases("generation"):
            orin.wait(1)
        return WorkDone(50, 20)

    report = orin.measure(run, idle_s=2.0)
    assert report.net_j == pytest.approx(15, rel=0.03)
    assert report.prompt is not None
    assert report.prompt.gross_j is None
    assert report.prompt.reason is not None
    assert "too slow" in report.prompt.reason
    assert "the sensor updated fewer than 3 times during the run" in report.flags


def test_a_run_below_the_idle_baseline_gives_no_net_energy(orin: Bench) -> None:
    def run(phases: Phases) -> WorkDone:
        with phases("generation"):
            orin.put(RAIL, 900)
            orin.wait(2)
        return WorkDone(0, 5)

    report = orin.measure(run, idle_s=2.0)
    assert report.gross_j is not None
    assert report.net_j is None
    assert report.reason is not None
    assert "idle baseline" in report.reason


def test_throttling_flags_the_run(orin: Bench) -> None:
    def run(phases: Phases) -> WorkDone:
        work = jetson_chat(orin)(phases)
        orin.put("sys/class/hwmon/hwmon2/oc1_event_cnt", 4)
        return work

    report = orin.measure(run, idle_s=2.0)
    assert report.flags == ("4 throttle events were counted",)
    assert report.heat["before"] != report.heat["after"]


def test_an_interrupted_run_is_marked_partial_and_keeps_its_numbers(orin: Bench) -> None:
    def run(phases: Phases) -> WorkDone:
        work = jetson_chat(orin)(phases)
        return WorkDone(work.prompt_tokens, work.generated_tokens, interrupted=True)

    report = orin.measure(run, idle_s=2.0)
    assert report.status == "partial"
    assert report.reason == "interrupted"
    assert report.j_per_token is not None


def test_several_replies_give_a_spread(orin: Bench) -> None:
    def run(phases: Phases) -> WorkDone:
        for milliamps in (2000, 2200, 2100):
            with phases("generation"):
                orin.put(RAIL, milliamps)
                orin.wait(1)
                orin.put(RAIL, milliamps + 1)
                orin.wait(1)
        return WorkDone(0, 30, replies=3)

    report = orin.measure(run, idle_s=2.0)
    assert report.generation is not None
    assert report.generation.sd_j == pytest.approx(1.0, rel=0.15)
    assert report.net_j is not None
    assert report.j_per_reply == pytest.approx(report.net_j / 3)


def test_an_unknown_source_is_not_replaced_by_another(orin: Bench) -> None:
    report = orin.measure(jetson_chat(orin), source="rapl")
    assert report.status == "not measured"
    assert report.reason is not None
    assert "rapl: no processor package counters" in report.reason


def test_radio_energy_is_a_model_with_its_numbers_and_never_added_to_the_measured(
    orin: Bench,
) -> None:
    def counted(phases: Phases) -> WorkDone:
        jetson_chat(orin)(phases)
        return WorkDone(50, 20, uplink_bytes=1000, downlink_bytes=500, radio_s=0.5)

    model = RadioModel(j_per_byte_up=1e-5, j_per_byte_down=2e-6, active_w=0.8)
    report = orin.measure(counted, idle_s=2.0, radio=model)
    assert report.radio is not None
    assert report.radio["modelled_j"] == pytest.approx(0.01 + 0.001 + 0.4)
    assert report.radio["measured"] is False
    assert report.net_j == pytest.approx(30, rel=0.03)


def test_a_radio_tail_is_counted_once_where_calls_overlap() -> None:
    assert busy_seconds([]) == 0
    assert busy_seconds([(0, 1), (5, 6)], tail_s=1) == pytest.approx(4)
    assert busy_seconds([(5, 6), (0, 1)], tail_s=10) == pytest.approx(16)
    with pytest.raises(UsageError):
        RadioModel()
    with pytest.raises(UsageError):
        RadioModel(active_w=float("nan"))
