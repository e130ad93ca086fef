"""`serve` beside `run`: ratios, and a run of the demo model."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from uhlm_edge.bench.speed.serving import Took, processor_clock, serving_rows
from uhlm_edge.cli import app


def test_ratios_are_those_of_the_same_reply_and_of_what_is_known_of_both() -> None:
    times = {
        "run": [Took(1.1, 0.1, 1.0, 11), Took(3.0, 1.0, 1.0, 11)],
        "stream": [Took(2.2, 0.2, 1.2, 11), Took(7.0, 1.0, 1.2, 11)],
        "whole": [Took(2.2, 0.0, 1.0, 11), Took(3.0, 0.0, 1.0, 11)],
    }
    run, stream, whole = serving_rows("local", times)
    assert run["wall_over_run"] is None
    assert run["wall_us"] == pytest.approx(2.05e6 / 11)
    assert stream["wall_over_run"] == pytest.approx((1 + 4 / 3) / 2)  # 2.2 / 1.1 and 7 / 3
    assert stream["wall_q1"] == pytest.approx(1 + 1 / 12)
    assert whole["wall_over_run"] == pytest.approx(0.5)
    assert stream["cpu_over_run"] == pytest.approx(0.2)
    assert (stream["first_ms"], whole["first_ms"]) == (pytest.approx(600), None)


def test_what_another_process_computes_is_told_finer_than_in_steps() -> None:
    spin = "import sys\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as process:
        try:
            clock = processor_clock(process.pid)
            seen = {clock()}
            while len(seen) < 10:  # it may have to wait for a core
                seen.add(clock())
            least = min(later - before for before, later in pairwise(sorted(seen)))
            assert least < 0.009 or platform.system() != "Linux"  # a step is 0.01
        finally:
            process.kill()


@pytest.mark.slow
def test_the_demo_model_served_and_run_writes_the_same_tokens() -> None:
    arguments = ["bench", "serve", "--strategies", "local", "--limit", "1", "--rounds", "1"]
    result = CliRunner().invoke(app, [*arguments, "--format", "json"], catch_exceptions=False)
    rows = {row["way"]: row for row in json.loads(result.stdout)}
    assert rows.keys() == {"run", "stream", "whole"}
    assert len({row["tokens"] for row in rows.values()}) == 1
    assert rows["run"]["tokens"] > 1
    assert all(row["wall_us"] > 0 and row["cpu_us"] > 0 for row in rows.values())
