"""`bench strategies`: its data, its list, resuming and interrupts with a fake runner; the pair."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from uhlm_edge.bench.harness.scoring import METRICS, Outcome
from uhlm_edge.bench.network.slow_engine import PacedEngine, paces
from uhlm_edge.bench.strategies.command import plot_row
from uhlm_edge.bench.strategies.comparison import Comparison, Journal
from uhlm_edge.bench.strategies.specs import StrategySpec, parse_specs
from uhlm_edge.cli import app
from uhlm_edge.common.errors import UsageError
from uhlm_edge.common.prompts import Case
from uhlm_edge.configs.config import Config, StrategyOptions

from ...fakes import FakeEngine

ROWS = Path(__file__).parents[3] / "common" / "data" / "tasks.jsonl"


def test_a_list_of_strategies_becomes_configurations() -> None:
    text = "local,uhlm@0.073,uhlm@averse,rand@0.2,rand,reward@0.7,ensemble@0.3,spec@0.1,hlm"
    text += ",handoff@0.06,spec@0.2+gumbel,uhlm@head,spec@head-0.2,uhlm@head-free"
    entries = {entry.label: entry for entry in parse_specs(text, StrategyOptions())}
    assert entries["uhlm@0.073"].options.threshold == 0.073
    assert entries["uhlm@averse"].options.threshold == "averse"
    assert entries["rand@0.2"].options.rate == 0.2
    assert not entries["rand@0.2"].borrows
    assert entries["rand"].borrows
    assert entries["reward@0.7"].options.threshold == 0.7
    assert entries["uhlm@head"].options.ask_by == entries["spec@head-0.2"].options.ask_by == "head"
    assert entries["uhlm@head"].options.threshold == "risk"
    assert entries["spec@head-0.2"].options.threshold == 0.2
    assert entries["uhlm@head-free"].options.threshold is None
    assert entries["uhlm@head-free"].learns
    assert entries["ensemble@0.3"].options.weight == (0.3,)
    coupled = entries["spec@0.2+gumbel"].options
    assert (coupled.threshold, coupled.coupling) == (0.2, "gumbel")
    assert entries["hlm"].options.coupling == "none"
    assert entries["handoff@0.06"].options.threshold == 0.06
    assert not entries["local"].calls
    assert not entries["handoff@0.06"].calls  # a verifier
    assert entries["hlm"].calls


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no strategies"),
        ("hlm,best", "no strategy 'best'"),
        ("uhlm@high", "want a number"),
        ("rand@x", "not a number"),
        ("handoff@risk", "not a number"),
        ("rand@2", r"strategy.rate = 2.0 \(rand@2\): must be at most 1"),
        ("local@1", "has no parameter"),
        ("hlm+fast", r"\(hlm.fast\): must be none or gumbel"),
        ("hlm,hlm", "twice"),
        ("hlm,rand", "list one, or give rand@RATE"),
    ],
)
def test_a_wrong_list_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_specs(text, StrategyOptions())


CASES = [Case(line, ({"role": "user", "content": "?"},), answer="a") for line in (1, 2, 3, 4)]


class FakeRunner:
    """Every reply has 10 ids. `uhlm` uploads 1 + seed of them, `rand` as many as its rate says."""

    config = Config()

    def __init__(self, stop_after: int | None = None) -> None:
        self.wrote: list[tuple[str, int, int]] = []
        self.open = 0
        self._left = stop_after

    def run(
        self, entry: StrategySpec, cases: Sequence[Case], seed: int, start: int = 0
    ) -> Generator[Outcome, None, None]:
        self.open += 1
        try:
            for case in cases[start:]:
                if len(self.wrote) == self._left:
                    raise KeyboardInterrupt
                self.wrote.append((entry.label, seed, case.line))
                uploads = round(10 * entry.options.rate) if entry.kind == "rand" else 1 + seed
                yield Outcome(case.line, 10, 0.1, from_llm=uploads, exact=1.0)
        finally:
            self.open -= 1


def compare(
    runner: FakeRunner, journal: Journal, text: str = "rand,uhlm@0.1", seeds: int = 2
) -> Comparison:
    entries = parse_specs(text, StrategyOptions())
    comparison = Comparison(runner, entries, CASES, range(seeds), journal)
    comparison.run()
    assert runner.open == 0
    return comparison


def test_rand_runs_at_the_rate_that_uhlm_had() -> None:
    runner = FakeRunner()
    rows = compare(runner, Journal(None), "rand,hlm,uhlm@0.1,uhlm@0.9", seeds=3).rows()
    assert [row["strategy"] for row in rows] == ["rand", "hlm", "uhlm@0.1", "uhlm@0.9"]
    assert rows[0]["transmission_rate"] == pytest.approx(0.2)
    assert runner.wrote[-1][0] == "rand"


def test_strategies_take_turns_row_by_row() -> None:
    runner = FakeRunner()
    compare(runner, Journal(None), "hlm,uhlm@0.1", seeds=1)
    assert [(label, line) for label, _, line in runner.wrote[:4]] == [
        ("hlm", 1), ("uhlm@0.1", 1), ("hlm", 2), ("uhlm@0.1", 2)
    ]  # fmt: skip


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    first = FakeRunner(stop_after=5)
    stopped = compare(first, Journal(path), "hlm,uhlm@0.1")
    assert stopped.partial
    assert [(row["strategy"], row["n"], row["seeds"]) for row in stopped.rows()] == [
        ("hlm", 3, 1), ("uhlm@0.1", 2, 1)
    ]  # fmt: skip
    assert all(row["partial"] for row in stopped.rows())

    second = FakeRunner()
    finished = compare(second, Journal(path), "hlm,uhlm@0.1")
    assert len(first.wrote) + len(second.wrote) == 2 * 2 * len(CASES)
    assert not set(first.wrote) & set(second.wrote)
    assert (finished.partial, finished.reused) == (False, 5)
    whole = compare(FakeRunner(), Journal(None), "hlm,uhlm@0.1")
    assert finished.rows() == whole.rows()
    assert not any(row["partial"] for row in finished.rows())


def test_a_policy_that_learns_begins_its_rows_anew(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    compare(FakeRunner(stop_after=2), Journal(path), "uhlm@adaptive", seeds=1)
    second = FakeRunner()
    compare(second, Journal(path), "uhlm@adaptive", seeds=1)
    assert len(second.wrote) == len(CASES)
    third = FakeRunner()
    compare(third, Journal(path), "uhlm@adaptive", seeds=1)
    assert third.wrote == []


def test_replies_are_reused_only_under_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    compare(FakeRunner(), Journal(path), "uhlm@0.1", seeds=1)
    again = FakeRunner()
    compare(again, Journal(path), "uhlm@0.1,uhlm@0.2", seeds=1)
    assert {label for label, *_ in again.wrote} == {"uhlm@0.2"}
    other = FakeRunner()
    entries = parse_specs("uhlm@0.1", StrategyOptions())
    Comparison(other, entries, CASES[:2], [0], Journal(path)).run()
    assert len(other.wrote) == 2
    fresh = FakeRunner()
    compare(fresh, Journal(path, fresh=True), "uhlm@0.1", seeds=1)
    assert len(fresh.wrote) == len(CASES)


def test_a_journal_cut_in_the_middle_of_a_line_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    compare(FakeRunner(), Journal(path), "uhlm@0.1", seeds=2)
    text = path.read_text()
    path.write_text(text[: len(text) - 30])
    runner = FakeRunner()
    compare(runner, Journal(path), "uhlm@0.1", seeds=2)
    assert runner.wrote == [("uhlm@0.1", 1, CASES[-1].line)]


def test_thresholds_of_one_strategy_are_one_curve_in_the_picture() -> None:
    row = {"strategy": "uhlm@0.3", "accuracy": 0.5, "accuracy_ci": None, "llm_positions": None}
    assert plot_row(row)["strategy"] == "uhlm"
    assert plot_row({**row, "strategy": "uhlm@adaptive"})["strategy"] == "adaptive"
    spread = plot_row({**row, "strategy": "hlm", "accuracy_ci": 0.1})
    assert (spread["accuracy_low"], spread["accuracy_high"]) == (0.4, 0.6)
    more = {"strategy": "handoff@0.1", "transmission_rate": 0.6, "calls": 5.0, "n": 10}
    handed = plot_row({**row, **more, "llm_positions": 80.0})
    assert handed["transmission_rate"] == 0.5  # of the replies
    assert handed["llm_tokens"] == 8.0


@pytest.mark.slow
def test_the_pair_over_http_gives_the_table(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    names = ["local", "uhlm@1", "cloud", "hlm", "uhlm@-1", "rand@0.5", "spec", "ensemble-baseline"]
    arguments = [
        "bench", "strategies", "--data", str(ROWS), "--strategies", ",".join(names),
        "--limit", "2", "--temperature", "1", "--top-k", "0", "--top-p", "1",
        "--max-tokens", "24", "--no-pipelined", "--out", str(out),
        "--out", str(tmp_path / "rows.md"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = {row["strategy"]: row for row in json.loads(out.read_text())}
    assert list(rows) == names
    for row in rows.values():
        assert row.keys() >= {*METRICS, *(f"{name}_ci" for name in METRICS)}
        assert row["n"] == 2
        assert not row["partial"]
    for name in ("tokens", "accuracy", "risk", "transmission_rate"):
        assert rows["uhlm@1"][name] == rows["local"][name]
        assert rows["uhlm@-1"][name] == rows["hlm"][name]
    assert rows["local"]["transmission_rate"] == rows["local"]["wire_bytes"] == 0.0
    for name in ("cloud", "hlm", "spec"):
        assert rows[name]["transmission_rate"] == 1.0
        assert rows[name]["risk"] == 0.0
    assert rows["hlm"]["llm_passes"] == rows["hlm"]["calls"] == rows["hlm"]["tokens"]
    assert rows["cloud"]["llm_passes"] == rows["cloud"]["tokens"]
    assert rows["spec"]["llm_passes"] < rows["hlm"]["llm_passes"]
    assert rows["hlm"]["wire_bytes"] > rows["hlm"]["payload_bytes"] > 0
    assert rows["hlm"]["upload_wire_median"] < 350
    assert "outside the timed path" in " ".join((tmp_path / "rows.md").read_text().split())
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "16 replies are those of an earlier run" in again.stderr


def test_passes_of_larger_models_are_given_in_milliseconds() -> None:
    assert paces("20+1,4.5+0.5") == [(0.02, 0.001), (0.0045, 0.0005)]
    for wrong in ("20", "20+1+1", "a+b", ""):
        with pytest.raises(UsageError, match="want milliseconds"):
            paces(wrong)


def test_a_paced_engine_takes_its_time() -> None:
    engine = PacedEngine(FakeEngine(), 0.01, 0.005)
    begun = time.perf_counter()
    engine.eval([1, 2])
    assert time.perf_counter() - begun >= 0.02
