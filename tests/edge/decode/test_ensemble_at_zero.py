"""An ensemble at temperature 0, through the loop: the argmax of mixture or contrast, each token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import Contrastive, Target, Weighted

from ...fakes import FakeModel, FakeVocabulary
from ..pairs import pair

VOCAB = FakeVocabulary(12)
SLM, LLM = (FakeModel(f"fake-{i}", i, VOCAB, own=1.2) for i in (1, 2))
GREEDY = Sampler(temperature=0.0, top_k=0, top_p=1.0)
AT_ONE = Sampler(temperature=1.0, top_k=0, top_p=1.0)
PROMPT = [1, 4, 2]


def weighted(ids: list[int], share: float) -> int:
    q, p = (AT_ONE.distribution(Row(model.row(ids))).probs(12) for model in (SLM, LLM))
    return int((share * q + (1.0 - share) * p).argmax())


def contrastive(ids: list[int], mu: float, alpha: float) -> int:
    q, p = (AT_ONE.probs(Row(model.row(ids))) for model in (SLM, LLM))
    score = np.where(p >= alpha * p.max(), np.log(p) - mu * np.log(q), -np.inf)
    return int(score.argmax())


CASES: list[tuple[Target, Callable[[list[int]], int]]] = [
    (Weighted(weight=0.5), lambda ids: weighted(ids, 0.5)),
    (Weighted(weight=0.2), lambda ids: weighted(ids, 0.2)),
    (Contrastive(mu=0.5), lambda ids: contrastive(ids, 0.5, 0.1)),
    (Contrastive(mu=0.5, alpha=0.0), lambda ids: contrastive(ids, 0.5, 0.0)),
    (Contrastive(mu=2.0, alpha=0.5), lambda ids: contrastive(ids, 2.0, 0.5)),
]


@pytest.mark.parametrize(("target", "step"), CASES, ids=[str(target) for target, _ in CASES])
@pytest.mark.parametrize("limit", [1, 3, None])
def test_every_token_is_the_argmax(
    target: Target, step: Callable[[list[int]], int], limit: int | None
) -> None:
    expected: list[int] = []
    while len(expected) < 25 and len(VOCAB) - 1 not in expected:
        expected.append(step(PROMPT + expected))
    with pair(SLM, LLM, GREEDY) as p:
        strategy = make_strategy("ensemble", target=target, draft_limit=limit)
        for seed in (0, 1):
            loop = p.loop(strategy, PROMPT, seed=seed, max_tokens=25)
            list(loop.events())
            assert loop.stats.offline_reason is None
            assert [token.id for token in loop.tokens] == expected


def test_the_cases_tell_the_ensemble_from_its_parts() -> None:
    """Somewhere the mixture chooses what neither part would, or the contrast what p would not."""
    texts = [[*PROMPT, i, j] for i in range(12) for j in range(12)]
    best = [[int(model.row(ids).argmax()) for model in (SLM, LLM)] for ids in texts]
    assert any(weighted(ids, 0.5) not in pair_ for ids, pair_ in zip(texts, best, strict=True))
    assert any(contrastive(ids, 0.5, 0.1) != p for ids, (_, p) in zip(texts, best, strict=True))
