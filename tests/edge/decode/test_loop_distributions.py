"""End to end: the settled text follows its target, by chi-square against the exact distribution."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.edge.policy.strategy import Strategy, make_strategy
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import Contrastive, Weighted

from ...exact_texts import NextProbs, assert_follows
from ...fakes import FakeModel, FakeVocabulary, Remembering
from ..pairs import PLAIN, pair

VOCAB = FakeVocabulary(4)
SLM = Remembering("slm", 3, VOCAB, own=1.0, end=0.0)
LLM = Remembering("llm", 4, VOCAB, own=1.0, end=0.0)
PROMPT = [1]
N = 1000


def cut(sampler: Sampler) -> NextProbs:
    """The LLM's p, under the sampler."""
    return lambda ids: sampler.probs(Row(LLM.row(ids)))


def rounded(model: FakeModel, ids: list[int]) -> NDArray[np.float64]:
    return PLAIN.distribution(Row(model.row(ids))).probs(4)


def mixed(weight: float) -> NextProbs:
    """weight q + (1 - weight) p, both rounded as they travel."""
    return lambda ids: weight * rounded(SLM, ids) + (1.0 - weight) * rounded(LLM, ids)


def contrasted(mu: float) -> NextProbs:
    """p q^-mu where p is at least a tenth of its peak."""

    def exact(ids: list[int]) -> NDArray[np.float64]:
        p, q = HOT.probs(Row(LLM.row(ids))), HOT.probs(Row(SLM.row(ids)))
        r: NDArray[np.float64] = np.where(p >= 0.1 * p.max(), p * q**-mu, 0.0)
        r /= r.sum()
        return r

    return exact


HOT = Sampler(temperature=2.0, top_k=0, top_p=1.0)
TOP_3 = Sampler(temperature=1.5, top_k=3, top_p=0.98)
CASES: dict[str, tuple[Strategy, Sampler, NextProbs]] = {
    "hlm": (make_strategy("hlm"), PLAIN, cut(PLAIN)),
    "hlm under a sampler": (make_strategy("hlm"), TOP_3, cut(TOP_3)),
    "uhlm that always asks": (make_strategy("uhlm", threshold=-1.0), PLAIN, cut(PLAIN)),
    "cloud": (make_strategy("cloud"), TOP_3, cut(TOP_3)),
    "spec": (make_strategy("spec", threshold=1.0, draft_limit=2), PLAIN, cut(PLAIN)),
    "ensemble, the device proposes": (
        make_strategy("ensemble", draft_limit=2, target=Weighted(weight=0.3)), PLAIN, mixed(0.3),
    ),
    "ensemble, the LLM proposes next": (
        make_strategy("ensemble", draft_limit=1, target=Weighted(weight=0.7)), PLAIN, mixed(0.7),
    ),
    "ensemble, contrastive": (
        make_strategy("ensemble", draft_limit=2, target=Contrastive(mu=0.5)),
        HOT, contrasted(0.5),
    ),
    "ensemble, contrastive, the LLM proposes next": (
        make_strategy("ensemble", draft_limit=1, target=Contrastive(mu=0.5)),
        HOT, contrasted(0.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_first_tokens_follow_their_target_exactly(case: str) -> None:
    strategy, sampler, exact = CASES[case]
    with pair(SLM, LLM, sampler) as p:
        texts = [p.ids(strategy, PROMPT, seed=seed, max_tokens=3) for seed in range(N)]
    assert_follows(texts, exact, PROMPT, 3)
