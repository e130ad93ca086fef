"""What a chat that outgrows the context, and a restart, cost until the first token."""

from __future__ import annotations

import pytest

from uhlm_edge.bench.speed.conversation import restart_rows, turn_row
from uhlm_edge.common.errors import UsageError
from uhlm_edge.configs.config import Config
from uhlm_edge.configs.layers import load_config

TEXT = "The king of the island said that he would never sail again. " * 8


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(
        {("device", "engine", "n_ctx"): 256, ("cloud", "offline"): True}, environment={}
    ).config


def test_a_restart_goes_on_with_the_same_ids_with_and_without_the_cache(config: Config) -> None:
    without, with_it = restart_rows(config, TEXT, 80, 2)
    assert (without["prompt_cache"], with_it["prompt_cache"]) == (False, True)
    assert with_it["same_ids"] is True
    assert without["sooner_min"] == without["sooner_p50"] == 1.0


def test_a_text_too_short_or_a_context_too_small_is_said(config: Config) -> None:
    for text, n in (("short", 80), (TEXT, 250)):
        with pytest.raises(UsageError, match="more than the text"):
            list(restart_rows(config, text, n, 2))


def test_the_slowest_turn_stands_beside_the_median() -> None:
    lengths, ms = [10, 20, 30, 25, 30, 28, 33, 40], [1.0, 2, 2, 2, 2, 2, 5, 1]
    times = [
        {"n_prompt": n, "first_ms": t, "cpu_ms": 1.0, "mib": float(i)}
        for i, (n, t) in enumerate(zip(lengths, ms, strict=True))
    ]
    slower = [{**turn, "first_ms": turn["first_ms"] + (i != 6)} for i, turn in enumerate(times)]
    row = turn_row("device", [slower, times])
    assert (row["turns"], row["left_out"]) == (8, 2)
    assert (row["first_ms_p50"], row["first_ms_max"], row["first_max_over_p50"]) == (2, 5, 2.5)
    assert row["cpu_max_over_p50"] == 1
    assert (row["mib_quarter"], row["mib_end"]) == (2, 7)
