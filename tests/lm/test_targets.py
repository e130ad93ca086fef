"""An ensemble at temperature 0 is the argmax of what its parts make, whoever proposes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Distribution, Probs, Sampler
from uhlm_edge.lm.targets import LLM, Contrastive, Target, Weighted, sampler_of_parts
from uhlm_edge.lm.verification import contrast, judge, target_probs

GREEDY = Sampler(temperature=0.0, top_k=0, top_p=1.0)


def parts(seed: int, n: int = 5, wire_top: int = 64) -> tuple[Distribution, Distribution]:
    """q and p at temperature 1, rounded."""
    rng = np.random.default_rng(seed)
    device, own = rng.standard_normal((2, n)).astype(np.float32)
    made = sampler_of_parts(GREEDY, Weighted())
    return made.distribution(Row(device), wire_top), made.distribution(Row(device + own), wire_top)


def log_softmax(logits: list[float]) -> Probs:
    z = np.array(logits)
    log_p: Probs = z - np.log(np.exp(z).sum())
    return log_p


@pytest.mark.parametrize("target", [Weighted(), Contrastive()])
def test_temperature_zero_is_of_the_ensemble_and_not_of_its_parts(target: Target) -> None:
    assert sampler_of_parts(GREEDY, target) == GREEDY.model_copy(update={"temperature": 1.0})
    assert sampler_of_parts(GREEDY, LLM) is GREEDY
    warm = Sampler(temperature=0.6)
    assert sampler_of_parts(warm, target) is warm


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.0, 1.0))
def test_a_weighted_ensemble_at_zero_settles_the_argmax_of_the_mixture_for_every_draft(
    seed: int, n: int, share: float
) -> None:
    q, p = parts(seed, n)
    mixed = share * q.probs(n) + (1.0 - share) * p.probs(n)
    best = int(np.flatnonzero(mixed >= mixed.max() - 1e-12)[0])
    r = target_probs(Weighted(weight=share), q, p.probs(n), greedy=True)
    for proposer in (q, p):  # the device's drafts, and the LLM's proposals
        for draft, position in itertools.product(proposer.ids.tolist(), range(3)):
            verdict = judge([draft], [proposer], [r], 3, position)
            settled = draft if verdict.replacement is None else verdict.replacement
            assert mixed[settled] == pytest.approx(mixed[best])
            assert settled == int(r.argmax())


def test_the_lowest_id_wins_a_tie() -> None:
    q = Distribution(np.array([1, 3]), np.array([1 << 15, 1 << 15]))
    p = Distribution(np.array([0, 1, 2, 3]), np.array([1 << 14] * 4)).probs(4)
    assert target_probs(Weighted(), q, p, greedy=True).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert q.best == 1


def test_a_coin_between_two_argmaxes_would_choose_otherwise() -> None:
    """Both argmaxes lose to an id that both models find nearly as likely."""
    q = Distribution(np.array([0, 1]), np.array([35_000, 65_536 - 35_000]))
    p = Distribution(np.array([1, 2]), np.array([65_536 - 35_000, 35_000])).probs(3)
    assert target_probs(Weighted(), q, p, greedy=True).argmax() == 1


def test_a_contrast_at_zero_is_the_argmax_of_the_contrast() -> None:
    log_p, log_q = log_softmax([2.0, 1.95]), log_softmax([3.0, 0.0])
    r = contrast(np.array([0, 1]), log_p, log_q, 0.5, greedy=True)
    assert r.tolist() == [0.0, 1.0]
    assert log_p.argmax() == 0  # greedy p would not say so


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0.0, 3.0))
def test_a_contrast_at_zero_settles_the_same_for_every_draft(seed: int, n: int, mu: float) -> None:
    rng = np.random.default_rng(seed)
    log_q = log_softmax(rng.standard_normal(8).tolist())
    ids = np.sort(rng.choice(8, n, replace=False))
    log_p = np.log(rng.dirichlet(np.ones(n)))
    r = contrast(ids, log_p, log_q, mu, greedy=True)
    score = {int(i): lp - mu * log_q[i] for i, lp in zip(ids, log_p, strict=True)}
    best = max(score, key=lambda i: (score[i], -i))
    q = Distribution.rounded(np.arange(8), np.exp(log_q))
    for draft in q.ids.tolist():
        verdict = judge([draft], [q], [r], 5, 0)
        assert (draft if verdict.replacement is None else verdict.replacement) == best
