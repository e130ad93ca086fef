"""How several models on one device take turns: what is fastest by their measured passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

_HORIZON = 16  # tokens that a plan is followed for
_MOST_DRAFTS = 4


class Plan(NamedTuple):
    """Drafts of the first model in its turn, and whether the others propose tokens in theirs."""

    drafts: int
    alternates: bool


LOCKSTEP = Plan(1, False)
"""All models at each token: the standard ensemble."""


def judged_at(plan: Plan, costs: Sequence[tuple[float, float]]) -> Iterator[tuple[int, float]]:
    """The proposer of each next token and when it is judged, if all before it stand.

    A model's turn is one pass over what it has not read: it scores all that is pending and may
    propose what follows (arXiv 2502.01662). A token is judged once every model has scored it.

    Args:
        plan: followed without end.
        costs: seconds per pass and per id of each model, the first one first.
    """
    pending: list[tuple[int, set[int]]] = []
    now, model = 0.0, 0
    while True:
        fixed, each = costs[model]
        lacking = [scorers for _, scorers in pending if model not in scorers]
        proposes = plan.drafts if model == 0 else int(plan.alternates)
        if lacking or proposes:
            now += fixed + each * max(1, len(lacking) + bool(proposes and pending))
        for scorers in lacking:
            scorers.add(model)
        while pending and len(pending[0][1]) == len(costs):
            yield pending.pop(0)[0], now
        now += max(0, proposes - 1) * (fixed + each)
        pending += [(model, {model}) for _ in range(proposes)]
        model = (model + 1) % len(costs) if pending else 0


def best_plan(acceptance: Sequence[float], costs: Sequence[tuple[float, float]]) -> Plan:
    """The plan that settles the most tokens a second; the standard ensemble unless one is faster.

    A rejection ends a run: its token is replaced, so it counts, and what follows is void. So a plan
    is worth the expected tokens of a run over its expected time.

    Args:
        acceptance: how often what each model proposes stands, shape (models,).
        costs: seconds per pass and per id of each model, shape (models, 2).
    """
    best, best_rate = LOCKSTEP, _rate(LOCKSTEP, acceptance, costs)
    for drafts in range(1, _MOST_DRAFTS + 1):
        for alternates in (False, True):
            rate = _rate(Plan(drafts, alternates), acceptance, costs)
            if rate > best_rate * (1.0 + 1e-9):
                best, best_rate = Plan(drafts, alternates), rate
    return best


def _rate(plan: Plan, acceptance: Sequence[float], costs: Sequence[tuple[float, float]]) -> float:
    tokens = seconds = now = 0.0
    stands = 1.0
    run = judged_at(plan, costs)
    for _ in range(_HORIZON):
        proposer, now = next(run)
        tokens += stands
        seconds += stands * (1.0 - acceptance[proposer]) * now
        stands *= acceptance[proposer]
    seconds += stands * now
    return tokens / seconds if seconds > 0.0 else tokens
