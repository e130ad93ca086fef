"""How models take turns follows from measured passes, and is never slower than the standard."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.edge.decode.turns import LOCKSTEP, Plan, best_plan, judged_at
from uhlm_edge.edge.link.latency import PassCost

UNIT = [(1.0, 0.0)] * 3
seconds = st.floats(0.0, 5.0)
models = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.floats(0.01, 5.0), seconds), min_size=2, max_size=4
)


def rate(plan: Plan, acceptance: list[float], costs: list[tuple[float, float]]) -> float:
    """Tokens a second: the expected tokens of a run over its expected time, from the definition."""
    run = list(islice(judged_at(plan, costs), 16))
    tokens = time = 0.0
    stands = 1.0
    for proposer, at in run:
        tokens += stands
        time += stands * (1.0 - acceptance[proposer]) * at
        stands *= acceptance[proposer]
    return tokens / (time + stands * run[-1][1])


@settings(max_examples=40)
@given(models)
def test_the_plan_is_the_best_there_is_and_so_never_below_the_standard(
    given_: list[tuple[float, float, float]],
) -> None:
    acceptance = [a for a, _, _ in given_]
    costs = [(fixed, each) for _, fixed, each in given_]
    best = rate(best_plan(acceptance, costs), acceptance, costs)
    standard = 1.0 / sum(fixed + each for _, fixed, each in given_)
    assert rate(LOCKSTEP, acceptance, costs) == pytest.approx(standard)
    assert best >= standard * (1 - 1e-6)
    for drafts in range(1, 5):
        for alternates in (False, True):
            assert best >= rate(Plan(drafts, alternates), acceptance, costs) * (1 - 1e-6)


def test_alternating_settles_a_token_with_each_pass_once_it_runs() -> None:
    run = list(islice(judged_at(Plan(1, True), UNIT), 6))
    assert run == [(0, 3.0), (1, 4.0), (2, 5.0), (0, 6.0), (1, 7.0), (2, 8.0)]


def test_without_alternating_every_token_costs_all_passes() -> None:
    run = list(islice(judged_at(LOCKSTEP, UNIT), 3))
    assert run == [(0, 3.0), (0, 6.0), (0, 9.0)]


def test_a_pass_is_as_wide_as_what_the_model_has_not_read() -> None:
    run = list(islice(judged_at(Plan(2, True), [(0.0, 1.0), (0.0, 10.0)]), 4))
    # Two drafts; two scored and one proposed: 3 ids; that one scored and two drafted; and so on.
    assert run == [(0, 32.0), (0, 32.0), (1, 34.0), (0, 65.0)]


@pytest.mark.parametrize(
    ("acceptance", "most"), [(0.9, 1.15), (0.8, 1.25), (0.7, 1.35), (0.5, 1.6)]
)
def test_passes_per_token_of_two_models_at_equal_costs(acceptance: float, most: float) -> None:
    both = [acceptance] * 2
    assert 1.0 / rate(best_plan(both, UNIT[:2]), both, UNIT[:2]) <= most


def test_where_ids_are_dear_all_models_run_at_each_token() -> None:
    assert best_plan([0.3, 0.3], [(0.0, 1.0), (0.0, 3.0)]) == LOCKSTEP


def test_the_cost_of_a_pass_is_a_line_through_those_measured() -> None:
    cost = PassCost()
    assert cost.fit == (0.0, 0.0)
    cost.add(2.5, 5)
    assert cost.fit == pytest.approx((0.0, 0.5))  # one width: nothing tells a pass from its ids
    for ids in (1, 2, 7, 1, 3, 2):
        cost.add(0.5 + 0.4 * ids, ids)
    assert cost.fit == pytest.approx((0.5, 0.4))
    cost.add(1000.0, 1)  # the machine had something else to do
    assert sum(cost.fit) < 1.5
