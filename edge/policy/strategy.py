"""A strategy is a policy, a scope and a target. Every system of the method is one of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ...common.errors import ConfigError
from ...configs.config import AskBy, StrategyName
from ...lm.targets import LLM, Coupling, Target
from .policies import Always, Never, Policy, RandomRate, UncertainAbove

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

Scope = Literal["last", "all", "none"]
"""What an upload lets the LLM judge: the newest draft; every draft since the last upload; nothing,
the LLM supplies the token instead."""

_CHUNK = 16  # tokens that `cloud` asks for at once: the text still flows


@dataclass(frozen=True)
class Strategy:
    """Which drafts are uploaded, what is judged, and what the text should follow.

    Attributes:
        name: as on the command line.
        policy: decides after each draft.
        scope: what an upload lets the LLM judge.
        target: what the accept test aims at.
        bonus: tokens of the LLM's own that an upload asks for.
        drafts: whether the device drafts at all while the cloud is there.
        draft_limit: most drafts in one upload (scope `all`); None: by measured times.
        coupling: how the draws of both sides hang together.
        shares: of the models in a weighted ensemble, the device first (`shares_of`).
    """

    name: str
    policy: Policy
    scope: Scope = "last"
    target: Target = LLM
    bonus: int = 0
    drafts: bool = True
    draft_limit: int | None = None
    coupling: Coupling = "none"
    shares: tuple[float, ...] = ()


def make_strategy(
    name: StrategyName,
    *,
    threshold: float = 0.073,
    rate: float = 0.1,
    draft_limit: int | None = None,
    ask_by: AskBy = "uncertainty",
    target: Target = LLM,
    policy: Policy | None = None,
) -> Strategy:
    """The strategy of that name.

    Args:
        name: one of STRATEGIES.
        threshold: of u, or of what the head expects (`uhlm`, `spec`, `reward`).
        rate: share of uploads (`rand`).
        draft_limit: most drafts in one upload (`spec`, `ensemble`).
        ask_by: what the threshold is of (`uhlm`, `spec`).
        target: of `ensemble`.
        policy: in place of a fixed threshold (`uhlm`, `spec`).
    """
    match name:
        case "local" | "handoff":  # who writes is decided before the loop runs
            return Strategy(name, Never())
        case "cloud":
            return Strategy(name, Always(), scope="none", bonus=_CHUNK, drafts=False)
        case "hlm":
            return Strategy(name, Always())
        case "uhlm":
            return Strategy(name, policy or UncertainAbove(threshold, ask_by))
        case "rand":
            return Strategy(name, RandomRate(rate))
        case "spec":
            above = policy or UncertainAbove(threshold, ask_by)
            return Strategy(name, above, scope="all", draft_limit=draft_limit)
        case "reward":
            return Strategy(name, UncertainAbove(threshold, "head"), scope="none", bonus=1)
        case "ensemble":
            bonus = int(target != LLM)  # the LLM's proposal
            return Strategy(name, Never(), "all", target, bonus, draft_limit=draft_limit)


def shares_of(given: Sequence[float], n: int) -> list[float]:
    """The shares of n models; those that are not given share equally what is left.

    Raises:
        ConfigError: too many, or they do not sum to 1.
    """
    if len(given) > n:
        raise ConfigError(f"{len(given)} weights for {n} models: give one each, or fewer")
    left = 1.0 - sum(given)
    if left < -1e-9 or (len(given) == n and left > 1e-9):
        raise ConfigError(f"the weights sum to {sum(given):g}, not to 1")
    missing = n - len(given)
    return [*given, *[max(0.0, left) / max(1, missing)] * missing]
