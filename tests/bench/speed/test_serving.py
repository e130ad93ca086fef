"""`serve` beside `run`: ratios, and a run of the demo model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from uhlm_edge.bench.speed.serving import Took, serving_rows
from uhlm_edge.cli import app


def test_ratios_are_those_of_the_same_reply_and_of_what_is_known_of_both() -> None:
    times = {
        "run": [Took(1.1, 0.1, 1.0, 11), Took(3.0, 1.0, 1.0, 11)],
        "stream": [Took(2.2, 0.2, 1.2, 11), Took(7.0, 1.0, 1.2, 11)],
        "whole": [Took(2.2, 0.0, 1.0, 11), Took(3.0, 0.0, 1.0, 11)],
    }
    run, stream, whole = serving_rows("local", times)
    assert run["p50_over_run"] is None
    assert run["p50_us"] == pytest.approx(150e3)  # after the first token: 0.1 and 0.2 s
    assert stream["p50_over_run"] == pytest.approx(0.4 / 0.15 - 1)
    assert whole["p50_over_run"] == pytest.approx(5.2 / 4.1 - 1)  # of the whole reply
    assert stream["cpu_over_run"] == pytest.approx(0.2)
    assert (stream["first_ms"], whole["first_ms"]) == (pytest.approx(600), None)


@pytest.mark.slow
def test_the_demo_model_served_and_run_writes_the_same_tokens() -> None:
    arguments = ["bench", "serve", "--strategies", "local", "--limit", "1", "--rounds", "1"]
    result = CliRunner().invoke(app, [*arguments, "--format", "json"], catch_exceptions=False)
    rows = {row["way"]: row for row in json.loads(result.stdout)}
    assert rows.keys() == {"run", "stream", "whole"}
    assert len({row["tokens"] for row in rows.values()}) == 1
    assert rows["run"]["tokens"] > 1
    assert rows["stream"]["p10_us"] > 0
