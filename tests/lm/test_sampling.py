"""From logits to distributions: the integers sampled from are those sent and verified against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from uhlm_edge.common.errors import EngineError
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Distribution, Sampler, Sparse, accept, rejection, resample

MASSES = st.lists(st.floats(0, 1e30), min_size=1, max_size=300).filter(lambda m: sum(m) > 0)
SAMPLERS = st.builds(
    Sampler,
    temperature=st.sampled_from([0.1, 0.6, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 1000]),
    top_p=st.sampled_from([0.01, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
)


def logits(seed: int, n: int = 60, spread: float = 3.0) -> NDArray[Any]:
    return (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)


def plain(row: NDArray[Any], sampler: Sampler, limit: int = 0) -> dict[int, float]:
    """The sampler as its docstring says it, one id after another; no ties."""
    scaled = [float(x) / sampler.temperature for x in row]
    peak = max(scaled)
    mass = {i: math.exp(x - peak) for i, x in enumerate(scaled)}
    order = sorted(mass, key=lambda i: -mass[i])
    if sampler.top_k:
        order = order[: sampler.top_k]
    total, before, kept = sum(mass[i] for i in order), 0.0, []
    for i in order:
        if sampler.top_p < 1.0 and before >= sampler.top_p * total:
            break
        kept.append(i)
        before += mass[i]
    kept = [i for i in kept if mass[i] >= sampler.min_p]
    if limit:
        kept = kept[:limit]
    total = sum(mass[i] for i in kept)
    return {i: mass[i] / total for i in sorted(kept)}


# Distribution


@given(MASSES)
def test_rounded_weights_sum_to_the_total_and_are_off_by_less_than_one(mass: list[float]) -> None:
    made = Distribution.rounded(np.arange(len(mass)), np.array(mass))
    assert made.weights.sum() == TOTAL
    assert (made.weights > 0).all()
    exact = np.array(mass) / sum(mass) * TOTAL
    given_weights = np.array([made.weight(i) for i in range(len(mass))])
    assert (abs(given_weights - exact) < 1.0 + 1e-6).all()


def test_the_distribution_of_draw_is_the_weights_by_enumeration_of_u() -> None:
    made = Sampler(top_k=0, top_p=1.0).distribution(Row(logits(1)), wire_top=16)
    counts = np.bincount([made.draw(i / TOTAL) for i in range(TOTAL)], minlength=60)
    assert (counts / TOTAL == made.probs(60)).all()
    assert made.draw(np.nextafter(1.0, 0.0)) == made.ids[-1]


def test_an_id_that_is_not_there_has_no_weight() -> None:
    made = Distribution(np.array([3, 5]), np.array([1, TOTAL - 1]))
    assert [made.weight(i) for i in range(7)] == [0, 0, 0, 1, 0, TOTAL - 1, 0]


@pytest.mark.parametrize("wire_top", [1, 2, 16, 64])
def test_at_most_wire_top_ids_and_the_most_likely_ones(wire_top: int) -> None:
    row = logits(2, 300)
    made = Sampler(temperature=3.0, top_k=0, top_p=1.0).distribution(Row(row), wire_top)
    assert set(made.ids) == set(np.argsort(-row)[:wire_top])


# Sampler


@given(st.integers(0, 10**6), SAMPLERS)
def test_probs_are_those_of_a_plain_sampler(seed: int, sampler: Sampler) -> None:
    row = logits(seed)
    made = plain(row, sampler)
    probs = sampler.probs(Row(row))
    assert np.flatnonzero(probs).tolist() == list(made)
    assert probs[list(made)] == pytest.approx(list(made.values()), rel=1e-5)
    assert probs.sum() == pytest.approx(1.0, abs=1e-12)


@given(st.integers(0, 10**6), SAMPLERS, st.sampled_from([1, 3, 30, 64]))
def test_the_distribution_is_the_rounded_distribution_of_the_same_sampler(
    seed: int, sampler: Sampler, wire_top: int
) -> None:
    row = logits(seed)
    made = plain(row, sampler, wire_top)
    rounded = sampler.distribution(Row(row), wire_top)
    assert set(rounded.ids) <= set(made)
    left_out = len(made) - len(rounded.ids)  # at most a quarter of a weight each
    for i, p in made.items():
        assert abs(rounded.weight(i) - p * TOTAL) < 1.01 + 0.25 * left_out


def test_without_a_cut_every_id_keeps_its_mass() -> None:
    row = logits(3, 500)
    probs = Sampler(temperature=1.0, top_k=0, top_p=1.0).probs(Row(row))
    assert (probs > 0).all()


def test_temperature_zero_is_the_most_likely_id_and_the_first_among_equals() -> None:
    row = np.array([1.0, 4.0, 4.0, -np.inf], np.float32)
    greedy = Sampler(temperature=0.0)
    assert greedy.probs(Row(row)).tolist() == [0.0, 1.0, 0.0, 0.0]
    made = greedy.distribution(Row(row))
    assert (made.ids.tolist(), made.weights.tolist()) == ([1], [TOTAL])


@pytest.mark.parametrize("temperature", [1e-300, 1e-8, 1e-6, 1e-5])
@pytest.mark.parametrize("rest", [{}, {"top_k": 0}, {"top_k": 0, "top_p": 1.0}, {"min_p": 0.5}])
def test_a_temperature_that_float32_cannot_tell_from_zero_is_zero(
    temperature: float, rest: dict[str, float]
) -> None:
    cold = Sampler.model_validate({"temperature": temperature, **rest})
    for row in (logits(5), logits(5, spread=1e-3) + 30, np.array([7.0, 7.0, 1.0], np.float32)):
        best = int(row.argmax())
        assert cold.greedy
        assert cold.probs(Row(row)).tolist() == np.eye(len(row))[best].tolist()
        assert cold.distribution(Row(row)).ids.tolist() == [best]


@pytest.mark.parametrize("temperature", [1e-4, 1e-3])
def test_every_other_temperature_draws_the_best_id_at_least(temperature: float) -> None:
    row = logits(6) * 100
    for sampler in (Sampler(temperature=temperature), Sampler(temperature=temperature, top_k=0)):
        assert sampler.distribution(Row(row)).draw(0.5) == row.argmax()
        assert sampler.probs(Row(row))[row.argmax()] == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_ties_leave_as_many_ids_as_were_asked_for(n: int) -> None:
    row = np.array([2.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0], np.float32)
    probs = Sampler(top_k=n, top_p=1.0).probs(Row(row))
    assert (probs > 0).sum() == n
    assert (Sampler(top_k=n, top_p=1.0).probs(Row(row)) == probs).all()


def test_masked_ids_never_come_back() -> None:
    row = np.full(100, -np.inf, np.float32)
    row[[10, 20]] = [0.0, -100.0]
    for sampler in (Sampler(), Sampler(top_k=0), Sampler(top_k=0, top_p=1.0), Sampler(top_k=50)):
        assert set(np.flatnonzero(sampler.probs(Row(row)))) <= {10, 20}
        assert set(sampler.distribution(Row(row)).ids) <= {10, 20}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler(temperature=0.0), Sampler(top_k=0, top_p=1.0), Sampler(top_k=0)]
)
def test_logits_that_are_not_numbers_are_refused(bad: float, sampler: Sampler) -> None:
    row = logits(4)
    row[7] = bad
    with pytest.raises(EngineError, match="not numbers"):
        sampler.probs(Row(row))
    with pytest.raises(EngineError, match="not numbers"):
        sampler.distribution(Row(row))


def test_logits_that_are_all_masked_are_refused() -> None:
    with pytest.raises(EngineError):
        Sampler().distribution(Row(np.full(5, -np.inf, np.float32)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": math.nan},
        {"topk": 1},
    ],
)
def test_a_sampler_refuses_what_is_no_setting(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Sampler.model_validate(wrong)


# The rule


def test_a_draft_is_accepted_with_probability_one_minus_beta() -> None:
    for p, q in ((0.1, 0.4), (0.4, 0.1), (0.0, 0.3), (0.25, 0.25), (1.0, 1.0)):
        accepted = sum(accept(p, q, i / 4096) for i in range(4096)) / 4096
        assert accepted == pytest.approx(1.0 - rejection(p, q), abs=1 / 4096)
    assert not accept(0.0, 0.3, 0.0)  # what the target rules out is out at any u


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 1000))
@example(0.0, 625)
def test_a_replacement_is_one_that_the_residual_allows(u: float, seed: int) -> None:
    p, q = (
        Sampler(top_k=5).probs(Row(logits(seed))),
        Sampler(top_k=5).distribution(Row(logits(seed + 1))),
    )
    left = [i for i in np.flatnonzero(p) if p[i] > q.weight(int(i)) / TOTAL]
    assert not left or resample(p, q, u) in left  # both may be sure of one token: nothing is left


def test_without_q_the_draw_is_from_p() -> None:
    p = np.array([0.0, 0.5, 0.0, 0.25, 0.25, 0.0])
    counts = np.bincount([resample(p, None, i / 64) for i in range(64)], minlength=6)
    assert (counts / 64 == p).all()
    assert resample(p, None, np.nextafter(1.0, 0.0)) == 4


def test_equal_distributions_leave_no_residual_and_p_is_drawn_from() -> None:
    made = Distribution(np.array([1, 2]), np.array([TOTAL // 2, TOTAL // 2]))
    assert resample(made.probs(4), made, 0.0) == 1
    assert resample(made.probs(4), made, 0.99) == 2


@given(SAMPLERS, st.integers(0, 1000), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_sparse_p_draws_and_tells_what_the_whole_vector_does(
    sampler: Sampler, seed: int, u: float, has_q: bool
) -> None:
    row = logits(seed)
    sparse, p = sampler.unrounded(Row(row)), sampler.probs(Row(row))
    q = sampler.distribution(Row(logits(seed + 1))) if has_q else None
    assert resample(sparse, q, u) == resample(p, q, u)
    assert [sparse[i] for i in range(len(p))] == p.tolist()
    assert isinstance(sparse, Sparse) or sparse is not p


@given(st.integers(0, 50), st.sampled_from([0.0, 1e-4, 0.02, 1.0]), st.integers(2, 200))
def test_the_largest_of_a_flat_row_are_the_largest(seed: int, spread: float, n: int) -> None:
    row = logits(seed, 20_000, spread)
    ids, _ = Sampler(temperature=1.0, top_k=n, top_p=1.0).support(Row(row))
    assert len(ids) == n
    assert (np.sort(row[ids]) == np.sort(row)[-n:]).all()
    assert (np.diff(ids) > 0).all()
