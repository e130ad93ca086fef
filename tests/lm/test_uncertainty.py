"""u from bounds equals u from whole softmaxes, and its distribution is the published one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from uhlm_edge.common.errors import EngineError
from uhlm_edge.lm import uncertainty
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.uncertainty import TOLERANCE, estimator

Floats = NDArray[np.float64]
INF = float("inf")


def sampled(logits: NDArray[np.float32], draft: int, theta: Floats, perturb: Floats) -> float:
    return uncertainty.sampled(Row(logits), draft, theta, perturb)


def expected(logits: NDArray[np.float32], draft: int) -> float:
    return uncertainty.expected(Row(logits), draft)


def softmax_at(logits: NDArray[np.float32], theta: float) -> Floats:
    z = logits.astype(np.float64)
    y = z - z.max()
    p = (y == 0.0).astype(np.float64) if theta == 0.0 else np.exp(y / theta)
    result: Floats = p / p.sum()
    return result


def plain(logits: NDArray[np.float32], draft: int, theta: Floats, perturb: Floats) -> float:
    """The definition, in float64: theta in [0, 2)."""
    differs = [u > softmax_at(logits, t)[draft] for t, u in zip(theta, perturb, strict=True)]
    return float(np.mean(differs))


def row(rng: np.random.Generator, size: int, spread: float, gap: float) -> NDArray[np.float32]:
    """Normal logits; one id is `gap` above the rest of them."""
    logits = rng.normal(scale=spread, size=size)
    logits[rng.integers(size)] = logits.max() + gap
    return logits.astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 50, 4096, 5000, 9001])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 2.5, 8.0, 300.0])
@pytest.mark.parametrize("gap", [0.0, 2.0, 9.0])
def test_sampled_equals_the_definition(size: int, spread: float, gap: float) -> None:
    rng = np.random.default_rng([size, int(10 * spread), int(gap)])
    for trial in range(6):
        logits = row(rng, size, spread, gap)
        draft = int(logits.argmax()) if trial % 2 else int(rng.integers(size))
        theta, perturb = rng.random(20), rng.random(20)
        assert sampled(logits, draft, theta, perturb) == plain(logits, draft, 2 * theta, perturb)


@settings(max_examples=200)
@given(
    values=st.lists(
        st.one_of(
            st.floats(-40, 40, width=32), st.just(-INF), st.floats(-(2.0**120), 2.0**120, width=32)
        ),
        min_size=1,
        max_size=40,
    ).filter(lambda values: max(values) > -INF),
    pick=st.integers(0, 1000),
    seed=st.integers(0, 2**32 - 1),
    repeats=st.sampled_from([1, 1, 200]),
)
def test_sampled_equals_the_definition_on_any_logits(
    values: list[float], pick: int, seed: int, repeats: int
) -> None:
    logits = np.array(values * repeats, dtype=np.float32)
    rng = np.random.default_rng(seed)
    theta, perturb = rng.random(20), rng.random(20)
    draft = pick % len(logits)
    assert sampled(logits, draft, theta, perturb) == plain(logits, draft, 2 * theta, perturb)
    assert expected(logits, draft) == pytest.approx(midpoints(logits, draft, 20), abs=TOLERANCE)


def midpoints(logits: NDArray[np.float32], draft: int, points: int) -> float:
    thetas = (np.arange(points) + 0.5) * 2.0 / points
    return float(np.mean([1.0 - softmax_at(logits, t)[draft] for t in thetas]))


@pytest.mark.parametrize(("root", "width"), [(4, 0.15), (8, 0.05)])
def test_the_bounds_hold_and_are_close(root: int, width: float) -> None:
    rng = np.random.default_rng(3)
    beta = np.concatenate([np.linspace(0.5, 2.0, 200), [5.0, 50.0, 1e3, 1e200]])
    for spread, gap in [(1.0, 0.0), (1.0, 10.0), (2.5, 5.0), (0.0, 0.0), (0.0, 20.0), (50.0, 3.0)]:
        logits = row(rng, 6000, spread, gap)
        split = Row(logits)
        nodes = uncertainty._quarters(split) if root == 4 else uncertainty._eighths(split)
        head, cut = split.head
        bounds = uncertainty._bounds(beta, nodes, root, cut)
        lower, upper = np.exp(bounds[0]), np.exp(bounds[1])
        y = logits.astype(np.float64) - logits.max()
        whole = np.array([np.exp(b * y).sum() for b in beta])
        y[head] = -INF
        tail = np.array([np.exp(b * y).sum() for b in beta])
        assert np.all(lower <= tail + 1e-12)
        assert np.all(tail <= upper + 1e-12)
        # Beyond b = 1 what is left of a tail below the cut hardly counts, unless the row is flat.
        near = beta <= 1.0
        assert np.max(((upper - lower) / whole)[near]) < width


def test_the_distribution_of_a_draw_is_the_softmax_at_theta() -> None:
    logits = row(np.random.default_rng(4), 300, 2.0, 1.0)
    grid = (np.arange(20_000) + 0.5) / 20_000
    for draft in (int(logits.argmax()), int(np.argsort(logits)[-2]), int(logits.argmin())):
        for half_theta in (0.02, 0.3, 0.5, 0.77, 0.99):
            u = sampled(logits, draft, np.full(len(grid), half_theta), grid)
            p = softmax_at(logits, 2 * half_theta)[draft]
            assert u == pytest.approx(1.0 - p, abs=1.01 / len(grid))


@pytest.mark.parametrize("size", [2, 700, 9000])
@pytest.mark.parametrize("spread", [0.5, 2.5, 6.0])
@pytest.mark.parametrize("gap", [0.5, 4.0, 12.0])
def test_expected_equals_the_integral(size: int, spread: float, gap: float) -> None:
    rng = np.random.default_rng([size, int(10 * spread), int(10 * gap)])
    logits = row(rng, size, spread, gap)
    for draft in (int(logits.argmax()), int(rng.integers(size))):
        assert expected(logits, draft) == pytest.approx(midpoints(logits, draft, 20), abs=3e-4)
        assert expected(logits, draft) == pytest.approx(midpoints(logits, draft, 500), abs=1e-3)


def test_the_mean_of_sampled_is_expected() -> None:
    rng = np.random.default_rng(6)
    logits = row(rng, 5000, 2.0, 6.0)
    draft = int(logits.argmax())
    u = sampled(logits, draft, rng.random(40_000), rng.random(40_000))
    assert u == pytest.approx(expected(logits, draft), abs=4 * 0.5 / 200)


def test_without_any_bound_the_whole_sums_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bounds(beta: Floats, nodes: Floats, root: int, cut: float) -> tuple[Floats, Floats]:
        return np.full_like(beta, -INF), np.full_like(beta, 100.0)

    monkeypatch.setattr(uncertainty, "_bounds", no_bounds)
    rng = np.random.default_rng(10)
    for gap in (0.0, 3.0, 10.0):
        logits = row(rng, 9000, 2.0, gap)
        draft = int(logits.argmax())
        theta, perturb = rng.random(20), rng.random(20)
        assert sampled(logits, draft, theta, perturb) == plain(logits, draft, 2 * theta, perturb)
        assert expected(logits, draft) == pytest.approx(midpoints(logits, draft, 20), abs=1e-3)
        monkeypatch.setattr(uncertainty, "TOLERANCE", 0.0)
        assert expected(logits, draft) == pytest.approx(midpoints(logits, draft, 20), abs=1e-6)
        monkeypatch.setattr(uncertainty, "TOLERANCE", TOLERANCE)


def test_theta_zero_compares_with_the_argmax() -> None:
    logits = np.array([1.0, 3.0, 3.0, 2.0], dtype=np.float32)
    zeros, perturb = np.zeros(4), np.array([0.0, 0.25, 0.49, 0.51])
    assert sampled(logits, 1, zeros, perturb) == 0.25  # shares the maximum: probability 1/2
    assert sampled(logits, 3, zeros, perturb) == 0.75  # never drawn, but 0 > 0 is false
    tiny = np.full(4, 1e-17)
    assert sampled(logits, 2, tiny, perturb) == 0.25


def test_a_certain_draft_has_no_uncertainty_and_a_masked_one_all() -> None:
    logits = np.full(10_000, -INF, dtype=np.float32)
    logits[77] = -3.0
    rng = np.random.default_rng(7)
    theta, perturb = rng.random(20), rng.random(20) + 1e-9
    assert sampled(logits, 77, theta, perturb) == expected(logits, 77) == 0.0
    assert sampled(logits, 78, theta, perturb) == expected(logits, 78) == 1.0


def test_an_unlikely_draft_is_more_uncertain_than_a_likely_one() -> None:
    rng = np.random.default_rng(8)
    for spread, gap in [(1.0, 1.0), (2.5, 3.0), (2.5, 9.0)]:
        logits = row(rng, 4000, spread, gap)
        theta, perturb = rng.random(20), rng.random(20)
        ids = np.argsort(logits)[::-1][[0, 1, 5, 100, 3999]]
        for u in (
            [sampled(logits, int(d), theta, perturb) for d in ids],
            [expected(logits, int(d)) for d in ids],
        ):
            assert u == sorted(u)


def test_even_logits_are_as_uncertain_as_can_be() -> None:
    for size in (2, 3, 700, 10_000):
        logits = np.full(size, 5.0, dtype=np.float32)
        assert expected(logits, 1) == pytest.approx(1.0 - 1.0 / size, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.parametrize("size", [3, 9000])
def test_logits_without_a_softmax_are_refused(bad: float, size: int) -> None:
    logits = np.zeros(size, dtype=np.float32)
    logits[size // 2] = bad
    theta = perturb = np.full(20, 0.5)
    with pytest.raises(EngineError, match="not numbers"):
        sampled(logits, 0, theta, perturb)
    with pytest.raises(EngineError, match="not numbers"):
        expected(logits, 0)
    with pytest.raises(EngineError, match="not numbers"):
        sampled(np.full(size, -INF, dtype=np.float32), 0, theta, perturb)


@pytest.mark.parametrize("draft", [-1, 8])
def test_a_draft_outside_the_vocabulary_is_refused(draft: int) -> None:
    with pytest.raises(EngineError, match="vocabulary of 8"):
        sampled(np.zeros(8, dtype=np.float32), draft, np.zeros(1), np.zeros(1))


def test_the_logits_are_left_as_they_are_and_nothing_warns() -> None:
    logits = np.array([3e38, -3e38, -INF, 0.0, 1e-40] * 1000, dtype=np.float32)
    before = logits.copy()
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        for draft in range(5):
            sampled(logits, draft, np.array([0.0, 0.5, 1.0 - 2**-53]), np.full(3, 0.5))
            expected(logits, draft)
    assert np.array_equal(logits, before)


def test_estimators_by_name() -> None:
    rng = np.random.default_rng(9)
    logits, theta, perturb = row(rng, 100, 2.0, 2.0), rng.random(20), rng.random(20)
    assert estimator("sampled")(Row(logits), 4, theta, perturb) == sampled(
        logits, 4, theta, perturb
    )
    assert estimator("expected")(Row(logits), 4, theta, perturb) == expected(logits, 4)
