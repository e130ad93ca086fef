"""The map of strategies: a fast LLM beats a slow device, a long way favours few calls."""

from __future__ import annotations

import pytest

from uhlm_edge.bench.network.channel import StrategyCost
from uhlm_edge.bench.network.map import map_rows, sentence
from uhlm_edge.common.errors import UsageError

COSTS = [
    StrategyCost("local", 1.0, 0, 0, 0, 0),
    StrategyCost("cloud", 0.0, 48.0, 1 / 16, 300, 150),
    StrategyCost("hlm", 1.2, 4.0, 1.0, 250, 100),
    StrategyCost("uhlm", 1.2, 4.0, 0.02, 250, 100),
]


def test_the_cloud_alone_is_named_where_it_is_faster() -> None:
    (row,) = map_rows(COSTS, [100.0], [0.0])
    assert row["fastest"] == "cloud"
    assert row["fewest_passes"] == "uhlm"
    assert row["rates"]["cloud"] > row["rates"]["uhlm"]
    assert "the cloud alone is faster than every strategy that drafts" in sentence(row)


def test_few_calls_win_over_a_long_way_and_the_device_alone_is_not_ranked() -> None:
    (row,) = map_rows(COSTS, [1.0], [200.0])
    assert row["fastest"] == "uhlm"
    assert row["local_tokens_per_s"] > row["tokens_per_s"] > row["cloud_tokens_per_s"]
    assert "uhlm is fastest" in sentence(row)


def test_a_faster_llm_moves_the_border() -> None:
    (slow,) = map_rows(COSTS, [3.0], [0.0], llm_ms=50.0)
    (fast,) = map_rows(COSTS, [3.0], [0.0], llm_ms=0.5)
    assert (slow["fastest"], fast["fastest"]) == ("uhlm", "cloud")


def test_a_map_needs_both_ends() -> None:
    with pytest.raises(UsageError, match="local and cloud"):
        map_rows(COSTS[2:], [1.0], [0.0])
