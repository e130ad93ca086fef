"""Coupled draws: each side's choice has its own distribution, and they agree when they can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.lm.draws import Purpose, per_id, uniform
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Probs, Sampler
from uhlm_edge.lm.verification import bonus_token, coupled_draw, draft_token, judge_coupled

N = 20_000
PLAIN = Sampler(temperature=1.0, top_k=0, top_p=1.0)
VECTOR = [0.08331032282047379, 0.03808623283639445, 0.2011693496190955]


def pair(seed: int, n: int) -> tuple[Probs, Probs]:
    rng = np.random.default_rng(seed)
    device, own = rng.standard_normal((2, n)).astype(np.float32)
    return PLAIN.probs(Row(2 * device)), PLAIN.probs(Row(2 * device + own))


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31), st.data())
def test_the_number_of_an_id_depends_on_nothing_but_seed_and_position(
    seed: int, position: int, data: st.DataObject
) -> None:
    ids = sorted(data.draw(st.sets(st.integers(0, 200_000), min_size=1, max_size=6)))
    together = per_id(seed, position, np.array(ids))
    assert together.tolist() == [per_id(seed, position, np.array([i]))[0] for i in ids]
    assert ((together >= 0.0) & (together < 1.0)).all()
    assert (per_id(seed, position + 1, np.array(ids)) != together).all()


def test_numbers_of_ids_are_none_of_the_other_purposes() -> None:
    ours = per_id(1, 2, np.arange(400))
    assert len(set(ours)) == 400
    others = {uniform(1, purpose, i) for purpose in Purpose for i in range(20)}
    assert not others & set(ours)


def test_a_vector_of_numbers_by_id() -> None:
    """Both sides, of whatever build, must draw these."""
    got = per_id(7, 3, np.array([0, 5, 150_000]))
    assert got == pytest.approx(VECTOR, abs=0.0)


def test_every_sides_choice_follows_its_own_distribution() -> None:
    p, _ = pair(1, 12)
    counts = np.bincount([bonus_token(p, 9, i, "gumbel") for i in range(N)], minlength=12)
    chi_square = float(((counts - N * p) ** 2 / (N * p)).sum())
    assert chi_square < 40  # 11 degrees of freedom: beyond 40 once in 30,000


@pytest.mark.parametrize("seed", range(4))
def test_both_agree_at_least_as_often_as_the_bound_says(seed: int) -> None:
    q, p = pair(seed, 30)
    ids, n = np.arange(30), 4000
    agree = sum(coupled_draw(ids, q, 3, i) == coupled_draw(ids, p, 3, i) for i in range(n)) / n
    tv = 0.5 * float(abs(p - q).sum())
    assert (1 - tv) / (1 + tv) - 4 * 0.5 / n**0.5 < agree <= 1 - tv + 4 * 0.5 / n**0.5


def test_the_text_is_the_llms_own_whatever_is_drafted() -> None:
    for seed in range(20):
        q, p = pair(seed, 8)
        ps = [p, q, p]
        own = [bonus_token(r, seed, 5 + i, "gumbel") for i, r in enumerate(ps)]
        for wrong in range(3):
            drafts = list(own)
            drafts[wrong] = (own[wrong] + 1) % 8
            verdict = judge_coupled(drafts, ps, seed, 5)
            assert verdict.accepted == wrong
            assert verdict.replacement == own[wrong]
            assert verdict.betas == [0.0] * wrong + [1.0]
        assert judge_coupled(own, ps, seed, 5).replacement is None


def test_equal_models_always_agree() -> None:
    _, p = pair(3, 40)
    q = Sampler(temperature=1.0).distribution(Row(np.log(p).astype(np.float32)), 64)
    for i in range(200):
        draft = draft_token(q, 0.5, 1, i, "gumbel", greedy=False)
        assert draft == bonus_token(q.probs(40), 1, i, "gumbel")
        assert draft_token(q, 0.5, 1, i, "none", greedy=False) == q.draw(0.5)
        assert draft_token(q, 0.5, 1, i, "none", greedy=True) == q.best
