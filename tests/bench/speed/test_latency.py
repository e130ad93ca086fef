"""Rates: what is timed, in which order, and what the rows say."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from uhlm_edge.bench.harness.machine import build_info, machine_info
from uhlm_edge.bench.speed.latency import COLUMNS, Plan, measure_rates, time_runners
from uhlm_edge.common.errors import ModelError, UsageError
from uhlm_edge.common.tables import render
from uhlm_edge.edge.device.thermal import HeatState

COOL = HeatState({}, (), None, None, None, None, 3)
MODEL = Path(__file__).parents[3] / "models" / "demo-slm.Q4_K_M.gguf"


class Clock:
    """Nanoseconds that pass only when a runner works."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def __call__(self) -> int:
        return self.now


class Paced:
    """A runner that takes a known time for each id, and ten times that the first time."""

    def __init__(self, clock: Clock, name: str, ns: int) -> None:
        self.clock, self.name, self.ns = clock, name, ns
        self.length, self.turns = 0, 0

    def eval(self, tokens: Sequence[int]) -> None:
        n = len(tokens)
        if n > 1:
            self.clock.log.append(f"{self.name} prefill {n} at {self.length}")
        self.length += n
        self.turns += 1
        self.clock.now += self.ns * n * (10 if self.turns == 1 else 1) + self.turns % 2

    def truncate(self, n: int) -> None:
        assert n <= self.length or n == 0
        self.length = n


def test_runners_take_turns_after_an_untimed_round_and_start_from_the_same_depth() -> None:
    clock = Clock()
    runners = {"bare": Paced(clock, "bare", 1000), "engine": Paced(clock, "engine", 1250)}
    plan = Plan(prompts=(8,), depths=(16,), generate=4, repeats=3)
    timed = time_runners(runners, plan, 1000, clock=clock, heat=lambda: COOL)  # type: ignore[arg-type]
    rows = list(timed)
    assert clock.log[:8] == ["bare prefill 8 at 0", "engine prefill 8 at 0"] * 4
    assert clock.log[8:] == ["bare prefill 16 at 0", "engine prefill 16 at 0"]
    assert [(row["runner"], row["n_prompt"], row["n_gen"], row["n_depth"]) for row in rows] == [
        ("bare", 8, 0, 0),
        ("engine", 8, 0, 0),
        ("bare", 0, 4, 16),
        ("engine", 0, 4, 16),
    ]
    for row in rows:
        pace = 1000 if row["runner"] == "bare" else 1250
        assert row["n"] == 3
        assert row["avg_ts"] == pytest.approx(1e9 / pace, rel=1e-2)  # the slow first is left out
        assert row["avg_ns"] == pytest.approx(pace * (8 if row["n_prompt"] else 4), rel=1e-2)
        assert row["ratio_to_bare"] == pytest.approx(1000 / pace, rel=1e-2)
        assert row["flags"] == []


def test_throttling_during_a_test_flags_its_rows() -> None:
    clock = Clock()
    hot = HeatState({}, (), None, None, ("throttled",), (), 3)
    states = iter([COOL, hot])
    rows = list(
        time_runners(
            {"engine": Paced(clock, "engine", 10)},
            Plan(prompts=(4,), depths=(), repeats=2),
            1000,
            clock=clock,
            heat=lambda: next(states),
        )
    )
    assert rows[0]["flags"] == ["the firmware reported: throttled"]
    assert rows[0]["ratio_to_bare"] is None


def test_the_demo_model_is_measured_beside_bare_llama_cpp() -> None:
    plan = Plan(prompts=(8,), depths=(8,), generate=4, repeats=2, threads=(1,))
    rows = list(measure_rates(MODEL, plan=plan))
    assert [row["runner"] for row in rows] == ["bare", "engine"] * 2
    for row in rows:
        assert isinstance(row["avg_ts"], float)
        assert row["avg_ts"] > 0
        assert row["model_filename"] == MODEL.name
        assert row["random_weights"] is False
        assert row["n_threads"] == 1
        assert set(COLUMNS) <= row.keys()
        assert row["system_info"]


@pytest.mark.parametrize(
    "options", [{"repeats": 1}, {"prompts": (0,)}, {"depths": (-1,)}, {"threads": (0,)}]
)
def test_plans_that_measure_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Plan(**options)  # type: ignore[arg-type]


def test_a_context_too_short_for_the_plan_and_a_file_that_is_no_model_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="are needed"):
        list(measure_rates(MODEL, plan=Plan(prompts=(1_000_000,), depths=(), threads=(1,))))
    with pytest.raises(ModelError):
        list(measure_rates(tmp_path / "none.gguf"))


ROWS = [
    {"name": "a|b", "rate": 12.345, "n": 5, "list": [1, 2], "none": None},
    {"name": "c", "rate": math.inf, "n": 50, "list": [], "none": None},
]


def test_tables_come_in_four_formats_and_null_stays_null() -> None:
    lines = [json.loads(line) for line in render(ROWS, "jsonl").splitlines()]
    assert lines == json.loads(render(ROWS, "json"))
    assert lines[0] == ROWS[0]
    assert lines[1]["rate"] is None
    table = list(csv.DictReader(io.StringIO(render(ROWS, "csv"))))
    assert table[0] == {"name": "a|b", "rate": "12.345", "n": "5", "list": "[1, 2]", "none": ""}
    assert render(ROWS, "md", ["name", "rate", "n", "none"]) == (
        "| name |  rate |   n | none |\n"
        "| ---- | ----: | --: | ---- |\n"
        "| a\\|b | 12.35 |   5 | -    |\n"
        "| c    |     - |  50 | -    |\n"
    )
    with pytest.raises(UsageError, match="md, csv, json, jsonl"):
        render(ROWS, "xml")


def test_the_machine_is_described_and_what_is_unknown_is_null(tmp_path: Path) -> None:
    unknown = machine_info(tmp_path)
    assert unknown["memory_bytes"] is None
    assert unknown["device"] is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name\t: Made-up 9000\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1000 kB\n")
    known = machine_info(tmp_path)
    assert known["cpu_info"] == "Made-up 9000"
    assert known["memory_bytes"] == 1_024_000
    assert str(build_info()["llama_cpp_python"]).count(".") == 2
