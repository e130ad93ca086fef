"""What a reply cost: counts from the events alone, and the names of the last JSON line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from uhlm_edge.edge.events import Notice, SkippedVerdict, Token
from uhlm_edge.edge.stats import Stats, Traffic

SKIPPED = Token(0, 5, "a", "edge", 0.0, uploaded=False, accepted=None, unverified=False, time=0.25)
CONFIRMED = replace(SKIPPED, uploaded=True, accepted=True, time=0.5)
REPLACED = replace(SKIPPED, source="cloud", uploaded=True, accepted=False)
SUPPLIED = replace(SKIPPED, source="cloud", uploaded=True, accepted=None)
FAILED = replace(SKIPPED, uploaded=True, accepted=None, unverified=True)


def test_only_tokens_count() -> None:
    stats = Stats("uhlm")
    for event in (SkippedVerdict(0, 0.1, 0.2), Notice("hello")):
        stats.add(event)
    assert stats == Stats("uhlm")


def test_a_token_counts_as_what_became_of_it() -> None:
    stats = Stats("uhlm")
    for token in (SKIPPED, CONFIRMED, REPLACED, SUPPLIED, FAILED):
        stats.add(token)
    assert stats.tokens == 5
    assert stats.unverified == 1
    assert stats.from_llm == 3  # a call that failed brought no verdict
    assert stats.rejected == 1
    assert stats.transmission_rate == 3 / 5
    assert stats.first_token == 0.25


def test_nothing_at_all_is_no_division_by_zero() -> None:
    shown = Stats("local").to_json()
    assert shown["transmission_rate"] == shown["tokens_per_s"] == shown["edge_ms_per_token"] == 0
    assert shown["ttft_ms"] is None  # not measured is not 0


def test_traffic_is_what_came_on_top() -> None:
    stats = Stats("uhlm")
    before = Traffic(calls=1, payload_up=10, payload_down=20, wire_up=100, wire_down=200)
    after = Traffic(calls=4, payload_up=15, payload_down=26, wire_up=107, wire_down=208)
    stats.add_traffic(before, after)
    assert (stats.calls, stats.uplink_bytes, stats.downlink_bytes) == (3, 5, 6)
    assert (stats.wire_up, stats.wire_down) == (7, 8)


def test_the_json_line_has_the_documented_names() -> None:
    documented = {
        "tokens", "uploads", "calls", "audits", "transmission_rate", "rejected", "tokens_per_s",
        "ttft_ms", "edge_ms_per_token", "uplink_bytes", "downlink_bytes", "cloud_ms", "wait_ms",
        "strategy", "threshold", "offline_reason",
    }  # fmt: skip
    assert documented <= Stats("uhlm").to_json().keys()


def test_times_are_in_milliseconds() -> None:
    stats = Stats("uhlm", tokens=4, elapsed=2.0, drafts=2, device_time=0.03, wait_time=0.5)
    shown = stats.to_json()
    assert shown["tokens_per_s"] == 2.0
    assert shown["edge_ms_per_token"] == pytest.approx(15.0)
    assert shown["wait_ms"] == 500.0
