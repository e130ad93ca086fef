"""Each strategy is the policy, scope and target of the table in the README."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from uhlm_edge.configs.config import StrategyName
from uhlm_edge.edge.events import Draft
from uhlm_edge.edge.policy.policies import (
    Always,
    Never,
    Policy,
    RandomRate,
    UncertainAbove,
)
from uhlm_edge.edge.policy.strategy import STRATEGIES, Scope, make_strategy
from uhlm_edge.lm.draws import Draws
from uhlm_edge.lm.sampling import TOTAL, Distribution
from uhlm_edge.lm.targets import LLM, Contrastive, Weighted

Q = Distribution(np.array([5]), np.array([TOTAL]))
TABLE: dict[StrategyName, tuple[type[Policy], Scope | None]] = {
    "local": (Never, None),
    "cloud": (Always, "none"),
    "hlm": (Always, "last"),
    "uhlm": (UncertainAbove, "last"),
    "rand": (RandomRate, "last"),
    "spec": (UncertainAbove, "all"),
    "reward": (UncertainAbove, "none"),
    "ensemble": (Never, "all"),
    "handoff": (Never, None),
}


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(STRATEGIES) == set(get_args(StrategyName))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_what_the_table_says(name: StrategyName) -> None:
    policy, scope = TABLE[name]
    strategy = make_strategy(name)
    assert strategy.name == name
    assert type(strategy.policy) is policy
    assert scope in (None, strategy.scope)
    assert strategy.target == LLM


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_where_the_llm_writes_does_it_ask_for_tokens(name: StrategyName) -> None:
    strategy = make_strategy(name)
    assert (strategy.bonus > 0) is (strategy.scope == "none")
    assert strategy.drafts is (name != "cloud")


@pytest.mark.parametrize("name", ["uhlm", "spec", "reward"])
def test_the_threshold_reaches_the_policy(name: StrategyName) -> None:
    assert make_strategy(name, threshold=0.42).policy.threshold == 0.42


@pytest.mark.parametrize("name", ["uhlm", "spec", "reward"])
def test_the_head_can_be_asked_in_every_scope(name: StrategyName) -> None:
    policy = make_strategy(name, threshold=0.3, ask_by="head").policy
    sure, unsure = (Draft(0, 5, Q, 0.9 - doubt, 1.0 - doubt) for doubt in (0.2, 0.4))
    assert not policy.upload(sure, Draws(0))
    assert policy.upload(unsure, Draws(0))


def test_an_ensemble_asks_for_proposals() -> None:
    assert make_strategy("ensemble", target=Weighted(weight=0.5)).bonus == 1
    assert make_strategy("ensemble", target=Contrastive(mu=0.1)).bonus == 1
