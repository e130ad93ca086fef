"""Many devices at once: rows, limits, and the command against the real verifier."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from uhlm_edge.bench.load.command import check_address
from uhlm_edge.bench.load.picture import load_over_devices
from uhlm_edge.bench.load.plan import Load, Plan
from uhlm_edge.bench.load.row import gauge, growth, load_row
from uhlm_edge.bench.load.run import drive
from uhlm_edge.common.errors import DataError, UsageError

from ...commands import run
from .played import INFO, Asked, accepting, http, scripted, trace


def test_a_row_counts_calls_tokens_errors_and_what_metrics_say() -> None:
    passes = 0

    def answer(asked: Asked) -> bytes:
        nonlocal passes
        if not asked.body:  # /metrics and the end of sessions
            text = f"uhlm_batch_width_sum {30 * passes}\nuhlm_batch_width_count {10 * passes}\n"
            passes += 1
            return http(200, f"{text}uhlm_cells_used 7\n".encode())
        if asked.number % 50 == 49:
            return http(429, b"{}", "retry-after: 0")
        return accepting(asked)

    async def play() -> dict[str, object]:
        async with scripted(answer) as url:
            plan = Plan(devices=4, duration=1.0, tokens_per_s=200.0, upload_rate=0.5)
            traces = [trace(), trace("again", 20)]
            return load_row(plan, [await drive(Load(plan, traces, url, None, INFO))])

    row = asyncio.run(play())
    assert row["devices"] == 4
    assert row["calls"]
    assert row["errors"] == 0
    assert row["busy_429"] == row["errors_by_kind"].get("429", 0)  # type: ignore[attr-defined]
    assert row["batch_width"] == pytest.approx(3.0)
    assert row["cells"] == 7
    assert row["sessions"] is None
    assert row["passes"] is None
    assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]  # type: ignore[operator]
    assert row["tokens_per_s"] > row["drafts_per_s"]  # type: ignore[operator]


@pytest.mark.parametrize(
    "plan",
    [
        Plan(0, 1.0, 1.0),
        Plan(10**6, 1.0, 1.0),
        Plan(1, 0.0, 1.0),
        Plan(1, 1e9, 1.0),
        Plan(1, 1.0, -1.0),
        Plan(1, 1.0, 1.0, upload_rate=0.0),
        Plan(1, 1.0, 1.0, drafts=65),
        Plan(1, 1.0, 1.0, prefill_ids=1),
    ],
)
def test_load_without_bounds_is_refused(plan: Plan) -> None:
    with pytest.raises(UsageError):
        plan.check()


def test_load_goes_to_this_machine_unless_told_otherwise() -> None:
    for url in (None, "http://127.0.0.1:8787", "http://localhost:1", "http://[::1]:8787"):
        check_address(url, allowed=False)
    for url in ("http://192.0.2.1:8787", "https://verifier.example"):
        with pytest.raises(UsageError, match="--allow-remote"):
            check_address(url, allowed=False)
        check_address(url, allowed=True)


def test_metrics_are_summed_over_labels() -> None:
    text = '# TYPE a counter\na_total{k="x"} 2\na_total{k="y"} 3.5e0\nb 1\n'
    assert gauge(text, "a_total") == 5.5
    assert gauge(text, "b") == 1
    assert gauge(text, "c") is None


def test_a_picture_needs_an_answered_call(tmp_path: Path) -> None:
    row = {"devices": 8, "calls_per_s": 10.0, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    path = load_over_devices([row, {**row, "devices": 64}], tmp_path / "load.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="no call"):
        load_over_devices([{**row, "p50_ms": None}], tmp_path / "none.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "model"),
    [([], "demo-llm"), (["--traffic", "demo"], "demo-slm")],
)
def test_the_command_plays_real_drafts_against_a_verifier_of_its_own(
    tmp_path: Path, more: list[str], model: str
) -> None:
    rows_file = tmp_path / "rows.json"
    words = ["--devices", "2", "--duration", "1", "--tokens-per-s", "0", "--upload-rate", "1"]
    words += more
    set_ = {"UHLM_VERIFIER_MODEL": model}
    result = run(["bench", "load", *words, "--out", str(rows_file)], tmp_path, b"", set_, 240)
    assert result.code == 0, result.err
    (row,) = json.loads(rows_file.read_text())
    assert row["calls"] > 0
    assert row["errors"] == 0
    assert row["model"].startswith(model)
    assert 0.3 < row["accepted"] <= 1.0  # drafts of a trained pair
    assert row["batch_width"] >= 1.0
    assert row["verifier_cpu_ms_per_call"] > 0
    assert result.out == ""  # the rows are in the file


def test_memory_grows_by_the_slope_of_the_second_half() -> None:
    filling = [100.0 + i for i in range(20)]
    assert growth([*filling, *(120.0 for _ in range(20))], 36.0) == pytest.approx(0.0, abs=1e-9)
    assert growth([*filling, *(120.0 + 0.5 * i for i in range(20))], 36.0) == pytest.approx(50.0)
    assert growth(filling[:12], 36.0) is None
