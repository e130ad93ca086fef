"""Which drafts are uploaded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.edge.events import Draft
from uhlm_edge.edge.policy.policies import Always, Never, RandomRate, UncertainAbove
from uhlm_edge.lm.draws import Draws
from uhlm_edge.lm.sampling import TOTAL, Distribution

Q = Distribution(np.array([5]), np.array([TOTAL]))
DRAWS = Draws(1, 0)


def draft(index: int = 0, u: float | None = None, reward: float | None = None) -> Draft:
    return Draft(index, 5, Q, u, reward)


@given(st.floats(0, 1))
def test_never_and_always_do_as_they_are_called(u: float) -> None:
    assert not Never().upload(draft(u=u), DRAWS)
    assert Always().upload(draft(u=u), DRAWS)


@given(st.floats(0, 1), st.floats(-1, 1))
def test_a_draft_is_uploaded_when_u_exceeds_the_threshold(u: float, threshold: float) -> None:
    assert UncertainAbove(threshold).upload(draft(u=u), DRAWS) is (u > threshold)


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0])
def test_threshold_one_skips_all_and_a_negative_one_none(u: float) -> None:
    assert not UncertainAbove(1.0).upload(draft(u=u), DRAWS)
    assert UncertainAbove(-0.001).upload(draft(u=u), DRAWS)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_draft_is_uploaded_when_its_reward_is_too_small(reward: float, threshold: float) -> None:
    policy = UncertainAbove(threshold, "head")
    assert policy.upload(draft(u=0.0, reward=reward), DRAWS) is (1.0 - reward > threshold)


def test_what_nobody_measured_is_no_reason_to_skip() -> None:
    assert UncertainAbove(1.0).upload(draft(), DRAWS)
    assert UncertainAbove(1.0, "head").upload(draft(u=0.0), DRAWS)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_a_random_share_is_uploaded_and_the_same_one_with_the_same_seed(rate: float) -> None:
    n = 4000
    chosen = [RandomRate(rate).upload(draft(i), Draws(7)) for i in range(n)]
    assert sum(chosen) == pytest.approx(n * rate, abs=4 * (n * rate * (1 - rate)) ** 0.5)
    assert chosen[:100] == [RandomRate(rate).upload(draft(i), Draws(7)) for i in range(100)]


def test_each_policy_says_what_it_reads() -> None:
    assert not Never().needs | Always().needs | RandomRate(0.5).needs
    assert UncertainAbove(0.1).needs == {"uncertainty"}
    assert "reward" in UncertainAbove(0.1, "head").needs
