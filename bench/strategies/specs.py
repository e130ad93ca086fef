"""Which strategies a benchmark compares: `uhlm@0.073,rand,uhlm@head,hlm+gumbel`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...common.errors import UsageError
from ...configs.config import Config, StrategyOptions
from ...configs.layers import changed
from ...edge.policy.policies import Always
from ...edge.policy.strategy import STRATEGIES, Strategy
from ...lm.targets import Weighted

BASELINE = "ensemble-baseline"
"""Benchmark only: both models at each token, in this process, drawn from the mixture."""

LOCKSTEP = "lockstep"
"""Benchmark only: the standard ensemble over a network, a call per token."""

_NAMED = ("averse", "prone", "risk", "adaptive")


@dataclass(frozen=True)
class StrategySpec:
    """One strategy of the list.

    Attributes:
        label: as it was written.
        kind: its name, without the parameter.
        options: the configuration of it.
        borrows: a `rand` whose rate is the upload rate of the first `uhlm`.
    """

    label: str
    kind: str
    options: StrategyOptions
    borrows: bool = False

    @property
    def calls(self) -> bool:
        """Does it talk to a verifier?"""
        return self.kind not in ("local", "handoff", BASELINE)

    @property
    def learns(self) -> bool:
        """Does what it does depend on replies before?"""
        free = self.options.threshold is None and self.kind == "uhlm"
        return free or (self.options.threshold == "adaptive" and self.kind in ("uhlm", "spec"))

    def at_rate(self, rate: float) -> StrategySpec:
        """The same `rand` with a rate of its own."""
        return StrategySpec(self.label, self.kind, self.options.model_copy(update={"rate": rate}))

    def own_strategy(self) -> Strategy | None:
        """A strategy that only benchmarks have; None: as the options say."""
        if self.kind != LOCKSTEP:
            return None
        return Strategy(LOCKSTEP, Always(), "last", Weighted(weight=self.options.weight[0]))


def parse_specs(text: str, options: StrategyOptions) -> list[StrategySpec]:
    """The specs of a list with commas; `options` are what no spec says.

    Raises:
        UsageError: an unknown name, a parameter that does not fit, an spec twice, or a `rand`
            without a rate and without a `uhlm` to take it from.
    """
    labels = [part.strip() for part in text.split(",") if part.strip()]
    if not labels:
        raise UsageError("no strategies: give for example --strategies local,hlm,uhlm@0.073")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} is in the list twice")
    specs = [_spec(label, options) for label in labels]
    if any(spec.borrows for spec in specs) and not any(e.kind == "uhlm" for e in specs):
        raise UsageError("rand runs at the upload rate of a uhlm: list one, or give rand@RATE")
    return specs


def _spec(label: str, options: StrategyOptions) -> StrategySpec:
    rest, _, coupling = label.partition("+")
    kind, at, parameter = rest.partition("@")
    if kind not in (*STRATEGIES, BASELINE, LOCKSTEP):
        known = ", ".join((*STRATEGIES, BASELINE, LOCKSTEP))
        raise UsageError(f"no strategy {kind!r}; there are {known}")
    changes = _PARAMETERS[kind](parameter, label) if at else {}
    if coupling:
        changes = {**changes, "coupling": coupling}
    if kind in STRATEGIES:
        changes = {**changes, "name": kind}
    values: dict[tuple[str, ...], Any] = {("strategy", name): changes[name] for name in changes}
    made = changed(Config(strategy=options), values, label).strategy
    return StrategySpec(label, kind, made, borrows=kind == "rand" and not at)


def _number(text: str, label: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{label}: {text!r} is not a number") from None


def _none(text: str, label: str) -> dict[str, Any]:
    raise UsageError(f"{label}: {label.split('@')[0]} has no parameter")


def _threshold(text: str, label: str) -> dict[str, Any]:
    """`risk`, `0.073`, `head` (risk, by the head), `head-adaptive`, `head-0.1`, `head-free`."""
    first, _, rest = text.partition("-")
    by = {}
    if first == "head":
        by, text = {"ask_by": "head"}, rest or "risk"
    if text == "free":
        return {**by, "threshold": None}
    if text in _NAMED:
        return {**by, "threshold": text}
    try:
        return {**by, "threshold": float(text)}
    except ValueError:
        known = ", ".join((*_NAMED, "free", "head"))
        raise UsageError(f"{label}: want a number or one of {known}") from None


def _shares(text: str, label: str) -> dict[str, Any]:
    return {"weight": tuple(_number(part, label) for part in text.split("/"))}


def _weight(text: str, label: str) -> dict[str, Any]:
    if text == "contrastive":
        return {"ensemble": "contrastive"}
    return {"ensemble": "weighted", **_shares(text, label)}


_PARAMETERS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "local": _none,
    "cloud": _none,
    "hlm": _none,
    "uhlm": _threshold,
    "rand": lambda text, label: {"rate": _number(text, label)},
    "spec": _threshold,
    "reward": _threshold,
    "ensemble": _weight,
    "handoff": lambda text, label: {"threshold": _number(text, label)},
    BASELINE: _shares,
    LOCKSTEP: _shares,
}
