"""From options and a pair's calibration to a strategy: thresholds, the reward head, adaptive."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...common.errors import ConfigError
from ...configs.config import Config, StrategyOptions
from ...configs.layers import config_folder
from ...lm.targets import Contrastive, Target, Weighted
from .adaptive import Adaptive, Learning
from .calibration import SHIPPED, Calibration, ModelKey, find
from .handoff_calibration import find_handoff
from .policies import Policy
from .reward import RewardHead
from .strategy import Strategy, make_strategy

PUBLISHED_THRESHOLD = 0.073
"""The averse threshold of arXiv 2412.12687's pair: what counts until a calibration exists."""

NO_HEAD = "no reward head for this pair; run `uhlm-edge calibrate`"


@dataclass(frozen=True)
class Tuning:
    """A calibration, and the folder that its head lies in."""

    calibration: Calibration
    folder: Path

    def advice(self, options: StrategyOptions) -> str | None:
        """Why no fixed threshold should be trusted here, if none was asked for; else None."""
        if options.threshold is not None or options.asks != "uncertainty":
            return None
        law = self.calibration.laws.get(options.estimator)
        return None if law is None else law.advice

    def head(self, options: StrategyOptions) -> RewardHead:
        """The reward head.

        Raises:
            ConfigError: there is none, or it was trained to read another u.
            DataError: its file is not the one that was measured.
            ModelError: its file is damaged.
        """
        made = self.calibration.head
        if made is not None and made.estimator != options.estimator:
            raise ConfigError(
                f"the reward head of calibration {self.calibration.name} reads {made.estimator} u; "
                f"use --estimator {made.estimator}"
            )
        return RewardHead(self.calibration.head_path(self.folder))


def needs_calibration(options: StrategyOptions) -> bool:
    """Would a calibration change what these options do?"""
    if options.asks == "head" or options.calibration is not None:
        return True
    return options.asks is not None and not isinstance(options.threshold, float)


def find_tuning(
    config: Config,
    device: ModelKey,
    cloud: ModelKey | None,
    environment: Mapping[str, str] = os.environ,
) -> Tuning | None:
    """The calibration of the pair: the user's own first, then what is shipped.

    Args:
        config: may name one.
        device: the model on the device.
        cloud: the verifier's; None if it is not known, then any of the device's will do.
        environment: says where the user's files are.

    Raises:
        ConfigError: none has the name that was asked for.
        DataError: the one of that name is damaged, or of another pair.
    """
    folders = [config_folder(environment) / "calibrations", SHIPPED]
    found = find(folders, device, cloud, config.strategy.calibration, config.sampler)
    return None if found is None else Tuning(*found)


def handoff_threshold(
    config: Config, device: ModelKey, environment: Mapping[str, str] = os.environ
) -> float | None:
    """Of the mean u over the window: as given, else of a calibration; None: there is none.

    Raises:
        ConfigError: no calibration has the name that was asked for.
        DataError: the one of that name is damaged, or was made for something else.
    """
    options = config.strategy
    if isinstance(options.threshold, float):
        return options.threshold
    folders = [config_folder(environment) / "calibrations", SHIPPED]
    made = find_handoff(
        folders, device, options.window, options.estimator, options.ask_by,
        config.cloud.model, config.sampler, options.calibration,
    )  # fmt: skip
    return None if made is None else made.chosen.threshold


def strategy_of(
    options: StrategyOptions,
    tuning: Tuning | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Strategy:
    """The strategy that the options name.

    Raises:
        ConfigError: it needs a calibration that is not there, or one that gives no such threshold.
    """
    limit = options.draft_limit
    target: Target = Weighted(weight=options.weight[0])
    if options.ensemble == "contrastive":
        target = Contrastive(mu=options.mu, alpha=options.alpha)
    adaptive = options.threshold == "adaptive" and options.name in ("uhlm", "spec")
    adaptive |= tuning is not None and tuning.advice(options) is not None
    threshold = PUBLISHED_THRESHOLD
    policy: Policy | None = None
    if adaptive:
        policy = _adaptive(options, tuning, environment)
    elif options.asks is not None:
        threshold = threshold_of(options, tuning)
        if options.name == "uhlm" and options.threshold is None:
            start = _just_below_next_level(threshold, options)
            policy = Learning(start, options.target_risk, ask_by=options.ask_by)
    if options.coupling != "none" and options.name == "ensemble":
        raise ConfigError("coupled draws follow the LLM alone: use another strategy than ensemble")
    made = make_strategy(
        options.name, threshold=threshold, rate=options.rate,
        draft_limit=None if limit == "auto" else limit, ask_by=options.ask_by, target=target,
        policy=policy,
    )  # fmt: skip
    return replace(made, coupling=options.coupling, shares=options.weight)


def head_of(
    strategy: Strategy, options: StrategyOptions, tuning: Tuning | None, offline: bool
) -> RewardHead | None:
    """The head that the strategy asks; None if it asks none, or there is nobody to ask after it.

    Raises:
        ConfigError, DataError, ModelError: it asks one, and there is none that fits.
    """
    handed = options.name == "handoff" and options.ask_by == "head"
    if not handed and (offline or "reward" not in strategy.policy.needs):
        return None
    if tuning is None:
        raise ConfigError(NO_HEAD)
    return tuning.head(options)


def threshold_of(options: StrategyOptions, tuning: Tuning | None = None) -> float:
    """The threshold as a number: of u, or of the rejection that the head expects.

    averse: beta = a u + b is zero; prone: it reaches Delta (arXiv 2412.12687); risk: the largest
    whose measured risk is low enough. Not given: risk if there is a calibration, else the
    published one. A fit in the configuration goes before a calibration.

    Raises:
        ConfigError: what a name refers to is not there, or says nothing.
    """
    choice = options.threshold
    if isinstance(choice, float):
        return choice
    if options.asks == "head":
        if tuning is None:
            raise ConfigError(NO_HEAD)
        return tuning.calibration.threshold(choice or "risk", options.estimator, "head")
    if options.slope is not None and choice in ("averse", "prone"):
        return _by_fit(options, options.slope, choice)
    if tuning is not None:
        return tuning.calibration.threshold(choice or "risk", options.estimator)
    if choice is None:
        return PUBLISHED_THRESHOLD
    raise ConfigError(
        f"threshold {choice} needs a calibration of this pair: run `uhlm-edge calibrate`, "
        "or give a number"
    )


def _just_below_next_level(threshold: float, options: StrategyOptions) -> float:
    """The highest threshold that asks about the same tokens: sampled u has `samples` + 1 levels.

    A single rejection then moves a learning threshold within its level first, not out of it.
    """
    if options.estimator != "sampled" or options.ask_by == "head":
        return threshold
    return (math.floor(threshold * options.samples + 1e-9) + 0.99) / options.samples


def _by_fit(options: StrategyOptions, a: float, choice: str) -> float:
    b, delta = options.intercept, options.delta
    if b is None or (choice == "prone" and delta is None):
        raise ConfigError(f"threshold {choice}: beside slope, [strategy] needs intercept and delta")
    if a <= 0.0:
        raise ConfigError(f"the fit's slope is {a:g}: uncertainty says nothing here, use hlm")
    return (-b if choice == "averse" else (delta or 0.0) - b) / a


def _adaptive(
    options: StrategyOptions, tuning: Tuning | None, environment: Mapping[str, str]
) -> Adaptive:
    """The adaptive policy, going on from where the last run with this pair ended."""
    start, pair = PUBLISHED_THRESHOLD, "uncalibrated"
    if tuning is not None:
        start = tuning.calibration.start(options.estimator, options.ask_by)
        pair = f"{tuning.calibration.device.name} {tuning.calibration.cloud.name}"
    base = environment.get("XDG_STATE_HOME") or "~/.local/state"
    pair += f" {options.estimator}-{options.samples}"
    if options.ask_by == "head":
        pair += " head"
    folder = Path(base).expanduser() / "uhlm-edge" / "adaptive"
    name = "".join(c if c.isalnum() or c in "-._" else "-" for c in pair)
    return Adaptive(
        start, options.target_risk, state=folder / f"{name}.json", pair=pair, ask_by=options.ask_by
    )
