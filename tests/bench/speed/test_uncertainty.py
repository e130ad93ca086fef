"""The benchmark of u measures what it says: one distribution, head kept, the same rows for all."""

from __future__ import annotations

import numpy as np
import pytest

from uhlm_edge.bench.speed import uncertainty
from uhlm_edge.bench.speed.uncertainty import compared, measure, midpoints, one_shot, plain, stretch
from uhlm_edge.common.errors import UsageError


def test_every_way_is_measured_on_every_kind_of_row_and_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uncertainty, "SWEEP", 1000)
    rows = np.random.default_rng(0).normal(scale=3.0, size=(3, 200)).astype(np.float32)
    costs = measure(rows, vocab_sizes=(200, 5000), rows=4, repeats=2)
    assert [(c["vocab"], c["rows"], c["way"]) for c in costs] == [
        (vocab, kind, way)
        for vocab in (200, 5000)
        for kind in ("real", "flat")
        for way in ("plain", "one_shot", "sampled", "expected")
    ]
    for cost in costs:
        assert cost["n"] == 8
        assert 0.0 < cost["us_p10"] <= cost["us"] <= cost["us_p90"]
        assert cost["us_cold"] > 0.0
        if cost["way"] == "plain":
            assert cost["ratio"] == 1.0
            assert cost["error"] is None
        if cost["way"] == "sampled":
            assert cost["agreement"] == 1.0
            assert cost["error"] == 0.0
        if cost["way"] == "expected":
            assert cost["agreement"] is None
            assert cost["error"] is not None
            assert cost["error"] < 3e-4


def test_plain_and_compared_have_one_distribution() -> None:
    logits = np.random.default_rng(1).normal(scale=2.0, size=60).astype(np.float32)
    draft = int(np.argsort(logits)[-2])
    perturb = (np.arange(5000) + 0.5) / 5000
    for half_theta in (0.1, 0.5, 0.95):
        theta = np.full(len(perturb), half_theta)
        u = compared(logits, draft, theta, perturb)
        assert plain(logits, draft, theta, perturb) == pytest.approx(u, abs=2.1 / len(perturb))
        assert one_shot(logits, draft, theta, perturb) == pytest.approx(u, abs=1.1 / len(perturb))


def test_midpoints_is_the_mean_of_compared() -> None:
    logits = np.array([1.0, 0.0, -1.0], dtype=np.float32)
    theta = np.repeat((np.arange(20) + 0.5) / 20, 1000)
    perturb = np.tile((np.arange(1000) + 0.5) / 1000, 20)
    assert compared(logits, 0, theta, perturb) == pytest.approx(midpoints(logits, 0, 20), abs=1e-3)


def test_a_stretched_row_keeps_its_logits_and_its_head() -> None:
    rng = np.random.default_rng(2)
    row = rng.normal(size=100).astype(np.float32)
    row[17] = 12.0
    longer = stretch(row, 1000, rng)
    assert longer.dtype == np.float32
    assert len(longer) == 1000
    assert np.array_equal(longer[:100], row)
    assert longer[100:].max() < np.sort(row)[92]
    assert np.array_equal(stretch(row, 100, rng), row)


def test_what_cannot_be_measured_is_refused() -> None:
    rows = np.zeros((2, 10), dtype=np.float32)
    with pytest.raises(UsageError, match="stretched to 5"):
        measure(rows, vocab_sizes=(5,))
    for empty in (rows[:0], rows[0]):
        with pytest.raises(UsageError, match="at least one row"):
            measure(empty)
    with pytest.raises(UsageError, match="at least one row"):
        measure(rows, repeats=0)
