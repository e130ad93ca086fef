"""What the device draws when its reply must match a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device, Drafter
from uhlm_edge.edge.link.latency import LatencyModel
from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.edge.stats import Stats
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Sampler
from uhlm_edge.lm.uncertainty import expected

from ...fakes import FakeEngine, FakeModel, FakeVocabulary

SMALL = FakeVocabulary(12)
SLM = FakeModel("slm", 1, SMALL, own=1.0)
PROMPT = [1, 2, 3]
PLAIN = Sampler(temperature=1.0, top_k=0, top_p=1.0)


def alternating(tokens: Sequence[int]) -> Any:
    """Even ids at even positions, odd ids at odd ones."""
    assert all(token % 2 == i % 2 for i, token in enumerate(tokens))
    return np.arange(12) % 2 == len(tokens) % 2


def drafter(sampler: Sampler, seed: int) -> tuple[Drafter, TokenCache]:
    cache = TokenCache(FakeEngine(SLM))
    cache.restart(PROMPT)
    estimate = lambda row, token, *_: expected(row, token)  # noqa: E731
    device = Device(cache, sampler, measure=True, estimator=estimate, grammar=lambda: alternating)
    stats = Stats("local")
    return Drafter(device, make_strategy("local"), seed, LatencyModel(), stats), cache


def test_q_is_masked_and_renormalised_and_u_is_of_that_q() -> None:
    for position in range(4):
        made, cache = drafter(PLAIN, seed=7)
        for index in range(position + 1):
            before = list(cache.ids)
            draft = made.draft(index)
            cache.append(draft.id)
        logits = SLM.row(before).astype(np.float64)
        may = np.arange(12) % 2 == position % 2
        exact = np.where(may, np.exp(logits), 0.0)
        exact /= exact.sum()
        assert np.abs(draft.q.probs(12) - exact).max() < 1.0 / TOTAL
        masked = Row(np.where(may, SLM.row(before), np.float32(-np.inf)))
        assert draft.uncertainty == pytest.approx(expected(masked, draft.id))


def test_drafts_follow_that_distribution() -> None:
    counts = np.zeros(12)
    n = 2000
    for seed in range(n):
        made, _ = drafter(PLAIN, seed)
        counts[made.draft(0).id] += 1
    exact = np.where(np.arange(12) % 2 == 0, np.exp(SLM.row(PROMPT).astype(np.float64)), 0.0)
    exact /= exact.sum()
    assert 0.5 * np.abs(counts / n - exact).sum() < 0.05


def test_top_k_counts_what_may_come_and_zero_takes_the_best_of_it() -> None:
    made, _ = drafter(replace_sampler(top_k=2), seed=1)
    draft = made.draft(0)
    even = sorted(range(0, 12, 2), key=lambda i: -SLM.row(PROMPT)[i])
    assert set(draft.q.ids.tolist()) == set(even[:2])
    greedy, _ = drafter(Sampler(temperature=0.0), seed=1)
    assert greedy.draft(0).id == even[0]


def replace_sampler(**options: Any) -> Sampler:
    return PLAIN.model_copy(update=options)


def test_a_reply_without_a_grammar_is_not_bound() -> None:
    made, cache = drafter(PLAIN, seed=1)
    free = Drafter(
        replace(made._device, grammar=None), make_strategy("local"), 1, LatencyModel(), Stats("x")
    )
    q = free.draft(0).q
    assert len(q.ids) == 12
    assert cache.ids == PROMPT
