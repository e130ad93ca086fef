"""A settled token follows the target exactly: by enumeration and integration, not by sampling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.lm import verification
from uhlm_edge.lm.draws import Purpose, uniform
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Distribution, Probs, Sampler, rejection, resample
from uhlm_edge.lm.targets import LLM, Contrastive, Target, Weighted
from uhlm_edge.lm.verification import bonus_token, judge, target_probs

TARGETS = [LLM, Weighted(weight=0.5), Weighted(weight=0.1), Weighted(weight=0), Weighted(weight=1)]


def pair(seed: int, n: int = 12, wire_top: int = 5) -> tuple[Distribution, Probs]:
    """A sparse rounded q and a full p, which q may miss a good part of."""
    rng = np.random.default_rng(seed)
    q_row, own = rng.standard_normal((2, n)).astype(np.float32) * 2
    q = Sampler(temperature=1.0, top_k=0, top_p=1.0).distribution(Row(q_row), wire_top)
    p = Sampler(temperature=0.8, top_k=0 if seed % 2 else 6, top_p=1.0).probs(Row(q_row + own))
    return q, p


def residual(r: Probs, q: Distribution) -> Probs:
    """How `resample` is distributed over u, measured where it changes: no step is missed."""
    left = np.maximum(r - q.probs(len(r)), 0.0)
    edges = np.concatenate([[0.0], left.cumsum() / left.sum()])
    exact = np.zeros(len(r))
    for low, high in itertools.pairwise(edges):
        if high > low + 1e-12:
            exact[resample(r, q, (low + high) / 2)] += high - low
    return exact


def settled(q: Distribution, r: Probs) -> Probs:
    """P(y) = sum over drafts x of q(x) [accepted and y = x, or rejected and y is the residual]."""
    exact = np.zeros(len(r))
    rejected = 0.0
    for x, weight in zip(q.ids, q.weights, strict=True):
        beta = rejection(float(r[x]), weight / TOTAL)
        exact[x] += weight / TOTAL * (1 - beta)
        rejected += weight / TOTAL * beta
    return exact if rejected < 1e-12 else exact + rejected * residual(r, q)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_the_distribution_of_one_settled_token_is_the_target(seed: int, target: Target) -> None:
    q, p = pair(seed)
    r = target_probs(target, q, p)
    assert settled(q, r) == pytest.approx(r, abs=1e-10)


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 30))
def test_whatever_part_of_q_is_sent_the_distribution_is_the_target(
    seed: int, n: int, top: int
) -> None:
    q, p = pair(seed, n, top)
    assert settled(q, p) == pytest.approx(p, abs=1e-10)


def test_the_enumeration_would_notice_another_rule() -> None:
    q, p = pair(1)
    other, _ = pair(2)
    assert abs(settled(other, p) - p).max() < 1e-10
    wrong = settled(q, p) - q.probs(len(p)) + other.probs(len(p))
    assert abs(wrong - p).max() > 1e-3


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_weighted_target_accepts_as_the_formula_says(weight: float) -> None:
    for seed in range(10):
        q, p = pair(seed)
        r = target_probs(Weighted(weight=weight), q, p)
        dense = q.probs(len(p))
        accepted = sum(
            dense[x] * (1 - rejection(float(r[x]), float(dense[x]))) for x in q.ids.tolist()
        )
        assert accepted == pytest.approx(weight + (1 - weight) * np.minimum(p, dense).sum())
        assert r.sum() == pytest.approx(1.0)


def test_only_a_weighted_target_differs_from_p() -> None:
    q, p = pair(1)
    assert target_probs(LLM, q, p) is p
    assert target_probs(Contrastive(), q, p) is p
    before = p.copy()
    target_probs(Weighted(), q, p)
    assert (p == before).all()


# Blocks, on a pair of small Markov chains

N = 4
CHAIN_Q = [pair(100 + i, N, 3)[0] for i in range(N)]
CHAIN_P = [pair(200 + i, N, N)[1] for i in range(N)]


def block_probs(length: int, target: Target) -> dict[tuple[int, ...], float]:
    """The distribution of the first `length` ids when each round drafts a block of up to three ids.

    Every accept decision and every replacement is enumerated with its probability, and after a
    rejection the next round begins.
    """

    def going_on(ids: tuple[int, ...], block: int) -> dict[tuple[int, ...], float]:
        if len(ids) > length:
            return {ids[1:]: 1.0}
        exact: dict[tuple[int, ...], float] = {}
        q = CHAIN_Q[ids[-1]]
        r = target_probs(target, q, CHAIN_P[ids[-1]])
        steps: list[tuple[int, int, float]] = []  # next id, drafts left in the block, probability
        rejected = 0.0
        for x, weight in zip(q.ids.tolist(), q.weights.tolist(), strict=True):
            beta = rejection(float(r[x]), weight / TOTAL)
            steps.append((x, block - 1 or 3, weight / TOTAL * (1 - beta)))
            rejected += weight / TOTAL * beta
        if rejected > 1e-12:
            steps += [(y, 3, rejected * share) for y, share in enumerate(residual(r, q))]
        for y, left, probability in steps:
            if probability > 0.0:
                for rest, share in going_on((*ids, y), left).items():
                    exact[rest] = exact.get(rest, 0.0) + probability * share
        return exact

    return going_on((0,), 3)


@pytest.mark.parametrize("target", [LLM, Weighted(weight=0.4)], ids=str)
def test_the_distribution_of_a_text_in_blocks_is_the_target(target: Target) -> None:
    exact = block_probs(4, target)
    for ids in itertools.product(range(N), repeat=4):
        expected, last = 1.0, 0
        for token in ids:
            expected *= target_probs(target, CHAIN_Q[last], CHAIN_P[last])[token]
            last = token
        assert exact.get(ids, 0.0) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("length", [2, 3])
def test_judge_takes_the_decisions_of_the_rule(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`judge` over a grid of uniforms gives the distribution that the enumeration assumes."""
    grid = [(i + 0.5) / 24 for i in range(24)]
    for drafts in itertools.product(range(N), repeat=length):
        chain = [0, *drafts]
        qs = [CHAIN_Q[last] for last in chain[:-1]]
        if not all(q.weight(x) for q, x in zip(qs, drafts, strict=True)):
            continue
        rs = [CHAIN_P[last] for last in chain[:-1]]
        for us in itertools.product(grid[::6], repeat=length):
            numbers = {(Purpose.ACCEPT, 10 + i): u for i, u in enumerate(us)}
            numbers |= {(Purpose.RESIDUAL, 10 + i): 1 - u for i, u in enumerate(us)}
            monkeypatch.setattr(verification, "uniform", lambda _, p, at, n=numbers: n[p, at])
            verdict = judge(drafts, qs, rs, seed=5, position=10)
            expected = 0
            for x, q, r, u in zip(drafts, qs, rs, us, strict=True):
                if u * q.weight(x) / TOTAL >= r[x]:
                    break
                expected += 1
            assert verdict.accepted == expected
            assert (verdict.replacement is None) == (expected == length)
            if expected < length:
                u = 1 - us[expected]
                assert verdict.replacement == resample(rs[expected], qs[expected], u)
            assert len(verdict.betas) == min(expected + 1, length)


def test_judging_twice_or_in_parts_gives_the_same() -> None:
    drafts: list[int] = []
    last = 0
    for i in range(6):
        last = CHAIN_Q[last].draw(uniform(8, Purpose.DRAFT, i))
        drafts.append(last)

    def verdict_from(start: int, ids: Sequence[int]) -> tuple[int, int | None]:
        chain = [0, *drafts][start:]
        n = len(ids)
        verdict = judge(
            ids, [CHAIN_Q[i] for i in chain[:n]], [CHAIN_P[i] for i in chain[:n]], 8, start
        )
        return verdict.accepted, verdict.replacement

    whole = verdict_from(0, drafts)
    assert whole == verdict_from(0, drafts)
    settled_by_one = 0
    for i in range(6):
        accepted, replacement = verdict_from(i, drafts[i : i + 1])
        if not accepted:
            assert whole == (i, replacement)
            break
        settled_by_one += 1
    assert settled_by_one == whole[0]


def test_no_drafts_are_all_accepted() -> None:
    assert judge([], [], [], seed=1, position=0) == (0, None, [])


def test_a_bonus_token_is_a_draw_from_p() -> None:
    p = np.array([0.1, 0.0, 0.6, 0.3])
    counts = np.bincount([bonus_token(p, 3, i) for i in range(20_000)], minlength=4)
    assert counts[1] == 0
    expected = p[[0, 2, 3]] * 20_000
    assert float(((counts[[0, 2, 3]] - expected) ** 2 / expected).sum()) < 13.8  # chi2(2), 0.001
