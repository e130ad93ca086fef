"""The standard ensemble that others are measured against follows its mixture, however it is run."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.bench.strategies.ensemble_baseline import write_baseline
from uhlm_edge.bench.strategies.specs import parse_specs
from uhlm_edge.configs.config import StrategyOptions
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler

from ...edge.pairs import GREEDY, PLAIN, pair
from ...exact_texts import NextProbs, assert_follows
from ...fakes import FakeEngine, FakeModel, FakeVocabulary

VOCAB = FakeVocabulary(4)
MODELS = [FakeModel(f"fake-{i}", i, VOCAB, own=1.5, end=0.0) for i in (3, 4, 5)]
SLM, LLM, _ = MODELS
PROMPT = [1]
N = 1000


def mixed(weights: list[float], sampler: Sampler = PLAIN) -> NextProbs:
    """The mixture of the models, each rounded as it travels."""

    def exact(ids: list[int]) -> NDArray[np.float64]:
        parts = [sampler.distribution(Row(model.row(ids))).probs(4) for model in MODELS]
        return np.array(weights) @ np.array(parts[: len(weights)])

    return exact


def written(weights: list[float], sampler: Sampler, seed: int, n: int = 2) -> list[int]:
    engines = [FakeEngine(model) for model in MODELS[: len(weights)]]
    return write_baseline(engines, [PROMPT] * len(engines), weights, sampler, 64, seed, n)


@pytest.mark.parametrize("weights", [[0.3, 0.7], [0.2, 0.3, 0.5]])
@pytest.mark.parametrize("sampler", [PLAIN, Sampler(temperature=1.5, top_k=3, top_p=1.0)])
def test_models_at_each_token_write_by_the_mixture(weights: list[float], sampler: Sampler) -> None:
    texts = [written(weights, sampler, seed) for seed in range(N)]
    assert_follows(texts, mixed(weights, sampler), PROMPT)


def test_a_call_at_each_token_writes_by_the_mixture() -> None:
    (spec,) = parse_specs("lockstep@0.3", StrategyOptions())
    lockstep = spec.own_strategy()
    assert lockstep is not None
    with pair(SLM, LLM) as p:
        texts = [p.ids(lockstep, PROMPT, seed=seed, max_tokens=2) for seed in range(N)]
        assert all(len(request.drafts) == 1 for request in p.link.requests)
        assert not any(request.bonus for request in p.link.requests)
    assert_follows(texts, mixed([0.3, 0.7]), PROMPT)


def test_at_temperature_0_both_write_the_argmax_of_the_mixture() -> None:
    (spec,) = parse_specs("lockstep@0.5", StrategyOptions())
    lockstep, exact = spec.own_strategy(), mixed([0.5, 0.5])
    assert lockstep is not None
    expected: list[int] = []
    while len(expected) < 12 and 3 not in expected:
        expected.append(int(exact(PROMPT + expected).argmax()))
    with pair(SLM, LLM, GREEDY) as p:
        assert p.ids(lockstep, PROMPT, max_tokens=12) == expected
    assert written([0.5, 0.5], GREEDY, 1, 12) == expected
