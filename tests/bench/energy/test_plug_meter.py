"""A meter at the plug: what a person wrote down becomes joules, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from uhlm_edge.bench.energy.measure import Phases, WorkDone
from uhlm_edge.bench.energy.plug_meter import evaluate, fill_form, read_form
from uhlm_edge.common.errors import DataError


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def form(path: Path) -> list[str]:
    """Thirty seconds of rest, forty of work for 200 tokens, thirty of rest."""
    clock, said = Clock(), list[str]()

    def work(_: Phases) -> WorkDone:
        clock.pause(40.0)
        return WorkDone(prompt_tokens=50, generated_tokens=200, replies=4)

    fill_form(path, work, 30.0, said.append, clock, clock.pause)
    return said


def read(path: Path, watts: Callable[[float], float], every: int = 5) -> None:
    """Somebody writes a reading every few seconds, from before the start to after the end."""
    with path.open("a") as file:
        for at in range(-every, 100 + 2 * every, every):
            file.write(f"{at},{watts(at)}\n")


def test_the_joules_are_those_above_rest(tmp_path: Path) -> None:
    path = tmp_path / "watts.csv"
    said = form(path)
    assert any("Write one line" in line for line in said)
    assert any(line.startswith("30 s: works") for line in said)
    read(path, lambda at: 3.0 if at < 30 or at > 70 else 7.0)
    row = evaluate(read_form(path))
    assert row["status"] == "measured"
    assert row["idle_w"] == pytest.approx(3.1, abs=0.4)
    assert row["j_per_token"] == pytest.approx(4.0 * 40 / 200, rel=0.15)
    assert row["j_per_reply"] == pytest.approx(40.0, rel=0.15)
    assert row["flags"] == []


def test_a_device_that_warms_up_is_flagged(tmp_path: Path) -> None:
    path = tmp_path / "watts.csv"
    form(path)
    read(path, lambda at: 3.0 if at < 30 else 7.0 if at <= 70 else 4.0)
    assert "the idle power went from 3" in str(evaluate(read_form(path))["flags"])


def test_too_few_readings_and_a_run_below_rest_are_not_measured(tmp_path: Path) -> None:
    few, below = tmp_path / "few.csv", tmp_path / "below.csv"
    form(few)
    read(few, lambda _: 3.0, every=15)
    row = evaluate(read_form(few))
    assert (row["status"], row["j_per_token"]) == ("not measured", None)
    assert "readings" in str(row["reason"])
    form(below)
    read(below, lambda at: 5.0 if at < 30 or at > 70 else 4.0)
    assert "no more than the device at rest" in str(evaluate(read_form(below))["reason"])


@pytest.mark.parametrize(
    ("line", "told"),
    [("5;3", "line 8"), ("1,2\n1,3", "must grow"), ("5,-3", "between"), ("5,nan", "between")],
)
def test_what_is_no_reading_is_refused_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "watts.csv"
    form(path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=told):
        read_form(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("seconds,watts\n1,2\n")
    with pytest.raises(DataError, match="was not written by"):
        read_form(path)
