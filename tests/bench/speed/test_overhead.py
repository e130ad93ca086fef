"""The project's loop beside a bare one: percentiles, and a run of the demo model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from uhlm_edge.bench.speed.overhead import overhead_rows
from uhlm_edge.cli import app


def test_overhead_is_the_difference_of_percentiles() -> None:
    times = {
        ("bare", "wall"): [100e-6] * 9 + [5e-3],
        ("local", "wall"): [160e-6] * 9 + [9e-3],
    }
    bare, local = overhead_rows(times)
    assert (bare["loop"], local["loop"]) == ("bare", "local")
    assert bare["over_bare_p25_us"] is None
    assert local["p25_us"] == pytest.approx(160)
    assert local["over_bare_p25_us"] == pytest.approx(60)
    assert local["tokens"] == 10


@pytest.mark.slow
def test_the_demo_model_beside_bare_llama_cpp() -> None:
    arguments = ["bench", "overhead", "--limit", "1", "--rounds", "1", "--format", "json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    rows = {(row["loop"], row["clock"]): row for row in json.loads(result.stdout)}
    assert rows.keys() == {(n, c) for n in ("bare", "local", "uhlm@1") for c in ("cpu", "wall")}
    assert len({row["tokens"] for row in rows.values()}) == 1
    assert all(row["p5_us"] > 0 for row in rows.values())
