"""A row of logits: its parts are right, each is computed once, and logits that are none are out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from uhlm_edge.common.errors import EngineError
from uhlm_edge.edge.policy.reward import features
from uhlm_edge.lm.row import BLOCK, Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.uncertainty import sampled


def logits(seed: int, size: int, spread: float = 3.0) -> NDArray[Any]:
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


@pytest.mark.parametrize("size", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("spread", [0.1, 3.0, 9.0])
def test_head_and_tail_add_up_to_the_softmax_at_every_temperature(size: int, spread: float) -> None:
    row = Row(logits(size, size, spread))
    ids, cut = row.head
    y = row.logits.astype(np.float64) - row.peak
    assert (np.delete(y, ids) <= -cut + 1e-5).all()
    for quarters in (1, 2, 3, 4, 8):
        whole = np.exp(quarters * y / 4).sum()
        head = np.exp(quarters * y[ids] / 4).sum()
        assert head + row.tail_sum(quarters) == pytest.approx(whole, rel=1e-5)


@given(st.integers(0, 1000), st.lists(st.floats(0.0, 40.0), min_size=1, max_size=6))
def test_ids_near_the_peak_are_the_same_in_any_order_of_asking(
    seed: int, widths: list[float]
) -> None:
    values = logits(seed, 200)
    row = Row(values)
    for width in widths:
        assert row.near(width).tolist() == Row(values).near(width).tolist()
        near = np.flatnonzero(values >= np.float32(float(values.max()) - width))
        assert row.near(width).tolist() == near.tolist()


def test_a_masked_id_is_never_near() -> None:
    row = Row(np.array([0.0, -math.inf, -500.0], np.float32))
    assert row.near(math.inf).tolist() == [0, 2]
    assert row.near(1e6).tolist() == [0, 2]


def test_sampler_uncertainty_and_features_share_one_exp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes: list[float] = []
    tail = Row.tail

    def counted(self: Row, root: int, stretch: float = 1.0) -> NDArray[Any]:
        passes.append(stretch)
        return tail(self, root, stretch)

    monkeypatch.setattr(Row, "tail", counted)
    row = Row(logits(1, 5000))
    Sampler().distribution(row)
    assert passes == []
    uniforms = np.random.default_rng(2).random(20)
    for _ in range(3):
        sampled(row, row.best, uniforms, uniforms)
        features(row, row.best, 0.5)
    assert passes.count(1.0) == 1  # others are whole sums at a theta of their own


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(bad: float) -> None:
    values = logits(3, 9)
    values[7] = bad
    with pytest.raises(EngineError, match="not numbers"):
        Row(values)
    with pytest.raises(EngineError, match="not numbers"):
        Row(np.full(5, -np.inf, np.float32))
