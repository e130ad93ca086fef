"""What a weighted ensemble does next follows from measured times, and never loses to the standard.

The standard ensemble runs both models at each token.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.edge.link.latency import LatencyModel, best_ensemble_step

SECONDS = st.floats(0.0, 10.0)


def rate(
    step: tuple[int, bool], alpha: float, draft: float, trip: float, fixed: float, each: float
) -> float:
    """Tokens per second of a step, from its definition."""
    k, proposes = step
    tokens = sum(alpha**i for i in range(k + proposes))
    seconds = k * draft + trip + fixed + k * each
    if proposes:
        seconds += alpha**k * (1 - alpha) * draft + each
    return tokens / seconds


@given(st.floats(0.0, 1.0), st.floats(1e-3, 10.0), SECONDS, SECONDS, SECONDS)
def test_the_step_is_the_best_there_is_and_so_never_below_the_standard(
    alpha: float, draft: float, trip: float, fixed: float, each: float
) -> None:
    costs = (alpha, draft, trip, fixed, each)
    best = rate(best_ensemble_step(*costs), *costs)
    for k in range(1, 17):
        for proposes in (False, True):
            assert best >= rate((k, proposes), *costs) * (1 - 1e-6)
    assert best >= (1 - 1e-6) / (draft + trip + fixed + each)


@pytest.mark.parametrize(
    ("acceptance", "most"), [(1.0, 1.1), (0.9, 1.15), (0.8, 1.25), (0.7, 1.35), (0.5, 1.6)]
)
def test_passes_per_token_at_equal_costs(acceptance: float, most: float) -> None:
    costs = (acceptance, 1.0, 0.0, 1.0, 0.0)
    assert 1.0 / rate(best_ensemble_step(*costs), *costs) <= most


def test_where_positions_are_dear_both_models_run_at_each_token() -> None:
    assert best_ensemble_step(0.3, 1.0, 0.0, 0.0, 3.0) == (1, False)
    assert LatencyModel().ensemble_step() == (1, False)  # nothing is known yet


def test_a_long_way_to_the_verifier_makes_long_steps() -> None:
    k, _ = best_ensemble_step(0.9, 0.001, 0.1, 0.001, 0.0001)
    assert k > 4
