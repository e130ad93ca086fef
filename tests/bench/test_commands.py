"""`uhlm-edge bench` as its user sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from uhlm_edge.bench.command import bench_app
from uhlm_edge.bench.network.channel import StrategyCost
from uhlm_edge.bench.network.costs import Measured, save_costs
from uhlm_edge.bench.speed import latency as rates
from uhlm_edge.common.errors import UsageError

from ..commands import run_here

app = typer.Typer()
app.add_typer(bench_app, name="bench")


@app.command()
def other() -> None:
    """A second command, so that `bench` stays a group."""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*words: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["bench", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    made = [
        StrategyCost("local", 20.0, 0, 0, 0, 0),
        StrategyCost("hlm", 20.0, 10.0, 1.0, 100, 50),
        StrategyCost("uhlm", 20.0, 10.0, 0.4, 100, 50),
    ]
    save_costs([Measured(cost, 100, None) for cost in made], path)
    return path


def test_latency_prints_a_table_and_nothing_else_on_stdout() -> None:
    out, err = run(
        "latency", "--prompts", "8", "--depths", "0", "--generate", "4", "--repeats", "2"
    )
    lines = out.splitlines()
    assert lines[0].startswith("| model_filename")
    assert len(lines) == 2 + 4
    assert "8 ids prefill" in err


def test_latency_of_a_shape_says_that_its_weights_are_random() -> None:
    out, err = run(
        "latency", "--shape", "smollm2-135m", "--prompts", "4", "--depths", "", "--repeats", "2",
        "--format", "jsonl",
    )  # fmt: skip
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(row["random_weights"] for row in rows)
    assert rows[0]["model_n_params"] == 134_515_008
    assert "random numbers in the shape of smollm2-135m" in err


def test_an_interrupted_run_writes_what_it_has_and_marks_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def two_rows(*_: object) -> Iterator[dict[str, object]]:
        yield {"runner": "bare", "avg_ts": 1.0}
        yield {"runner": "engine", "avg_ts": 2.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(rates, "measure_rates", two_rows)
    path = tmp_path / "rows.json"
    words = ["bench", "latency", "--out", str(path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0
    rows = json.loads(path.read_text())
    assert [row["partial_run"] for row in rows] == [True, True]


def test_the_channel_is_computed_from_measured_costs(costs: Path, tmp_path: Path) -> None:
    out, err = run(
        "channel", "--costs", str(costs), "--snr", "0,20", "--round-trip", "50",
        "--format", "json", "--plot", str(tmp_path / "plots"),
    )  # fmt: skip
    rows = json.loads(out)
    assert len(rows) == 2 * 2 * 3
    assert {row["snr_db"] for row in rows} == {0.0, 20.0}
    assert rows[0]["tokens_per_s"] == pytest.approx(50.0)
    assert (tmp_path / "plots" / "throughput.png").exists()
    assert "throughput.png" in err


def test_energy_without_a_sensor_is_null_and_says_why(tmp_path: Path) -> None:
    words = ["energy", "--strategies", "local", "--replies", "1", "--idle", "0.1"]
    out, err = run(*words, "--format", "json")
    (row,) = json.loads(out)
    if row["status"] == "measured":
        pytest.skip("this machine has a power sensor")
    assert row["status"] in ("not measured", "partial")
    assert row["j_per_token"] is None
    assert row["reason"] in err
    assert row["report"]["work"]["generated_tokens"] > 0


def test_uncertainty_is_timed_on_the_models_own_rows() -> None:
    out, _ = run("uncertainty", "--vocab", "8192", "--rows", "2", "--format", "csv")
    assert out.startswith("partial_run,vocab,rows,way,n,us")
    assert len(out.splitlines()) == 1 + 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["latency", "--prompts", "8,x"], "--prompts '8,x': give numbers"),
        (["latency", "--shape", "gpt-9"], "no shape 'gpt-9'"),
        (["latency", "--shape", "smollm2-135m", "--model", "demo-llm"], "exclude each other"),
        (["energy", "--strategies", "local", "--hz", "5"], "10 to 1000 are possible"),
    ],
)
def test_what_cannot_be_measured_as_asked_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(*words)


def test_wrong_channels_and_links_are_refused(costs: Path) -> None:
    with pytest.raises(UsageError, match="rayleigh"):
        run("channel", "--costs", str(costs), "--fading", "rician")
    with pytest.raises(UsageError, match="kinds of links"):
        run("channel", "--costs", str(costs), "--real", "--link", "satellite")
    with pytest.raises(UsageError, match="no format"):
        run("channel", "--costs", str(costs), "--format", "xml")


@pytest.mark.slow
def test_a_real_link_is_put_beside_the_model(tmp_path: Path) -> None:
    costs = tmp_path / "costs.json"
    save_costs([Measured(StrategyCost("hlm", 2.0, 5.0, 1.0, 250, 90), 100, None)], costs)
    out, err = run(
        "channel", "--costs", str(costs), "--real", "--round-trip", "40", "--link", "proxy",
        "--prompt", "What is 7 times 8?", "--format", "json",
    )  # fmt: skip
    (row,) = json.loads(out)
    assert row["link"] == "proxy"
    assert row["modelled_tokens_per_s"] == pytest.approx(1 / 0.047, rel=0.01)
    assert 2 < row["measured_tokens_per_s"] < 25  # a round trip of 40 ms for every token
    assert "proxy" in err


@pytest.mark.slow
def test_a_long_chat_is_one_row_for_each_way_to_slide() -> None:
    out, _ = run(
        "turns", "--strategy", "local", "--turns", "8", "--context", "256", "--slide",
        "none,device", "--max-tokens", "8", "--repeats", "1", "--format", "jsonl",
    )  # fmt: skip
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["slide"], row["turns"]) for row in rows] == [("none", 8), ("device", 8)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["channel", "--snr", "x"], "--snr 'x': give numbers, with commas between them"),
        (["channel", "--strategies", "hlm,nope"], "strategy.name = 'nope'"),
        (["map", "--round-trips", ","], "--round-trips ',': give numbers"),
        (["map", "--strategies", "hlm,nope"], "strategy.name = 'nope'"),
        (["energy", "--strategies", "local,nope"], "strategy.name = 'nope'"),
        (["latency", "--prompts", "x"], "--prompts 'x': give numbers"),
        (["load", "--devices", ""], "--devices '': give numbers"),
        (["report", "nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_measured(
    words: list[str], told: str, tmp_path: Path
) -> None:
    done = run_here(["bench", *words], tmp_path)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()  # no word of progress before it
    assert told in line
