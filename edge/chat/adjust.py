"""Choose a strategy for a pair that is loaded: at the start, and in a conversation that is open."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from ...common.errors import ConfigError
from ...configs.config import Config
from ...lm.uncertainty import estimator
from ...models.resolve import find_model, locate_model
from ..decode.drafter import Device
from ..decode.handoff import Endpoint, Handoff
from ..device.watch import Watch
from ..link.session import Session
from ..policy.calibration import ModelKey, model_digest
from ..policy.reward import RewardHead
from ..policy.sparing import Sparing
from ..policy.strategy import Strategy
from ..policy.tuning import (
    PUBLISHED_THRESHOLD,
    find_tuning,
    handoff_threshold,
    head_of,
    needs_calibration,
    strategy_of,
)
from .assistant import Assistant
from .show import tell

PIPELINED = {"auto": None, "on": True, "off": False}


def adjust(
    assistant: Assistant, config: Config, environment: Mapping[str, str] = os.environ
) -> None:
    """Let the next reply be as `config` says in its sections strategy, sampler and chat.

    Raises:
        ConfigError: options that do not fit each other, or a strategy that needs a calibration.
        DataError: the calibration is damaged.
    """
    options, chat = config.strategy, config.chat
    assistant.require(options.name)
    device, session, handoff = assistant.device, assistant.session, assistant.handoff
    strategy, head = choose(config, device, session, tell, environment)
    if handoff is not None and options.name == "handoff":
        handoff = handing(config, device, session, handoff.endpoint, tell, environment)
    assistant.handoff = handoff
    assistant.device = replace(
        device, sampler=config.sampler, head=head, measure=options.measure, k=options.samples,
        estimator=estimator(options.estimator),
    )  # fmt: skip
    assistant.strategy = strategy
    assistant.set_options(chat.system, chat.max_tokens, PIPELINED[options.pipelined], chat.seed)


def choose(
    config: Config,
    device: Device,
    session: Session,
    notify: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> tuple[Strategy, RewardHead | None]:
    """The strategy that the options name for this pair, and the head that it asks, if it asks one.

    Raises:
        ConfigError: options that do not fit each other, or a calibration that is not there.
        DataError: the calibration is damaged.
    """
    options, tuning = config.strategy, None
    if options.name == "handoff":
        if options.ask_by == "head":  # of whatever pair: `calibration` names another kind
            bare = options.model_copy(update={"calibration": None})
            whole = config.model_copy(update={"strategy": bare})
            own = pair_of(config, device, session)[0]
            tuning = find_tuning(whole, own, None, environment)
    elif session.is_offline:  # nobody to ask, so it does not matter when
        options = options.model_copy(update={"threshold": PUBLISHED_THRESHOLD})
        if options.calibration is not None:  # a name that is wrong is told all the same
            find_tuning(config, pair_of(config, device, session)[0], None, environment)
    elif needs_calibration(options):
        tuning = find_tuning(config, *pair_of(config, device, session), environment)
    if tuning is not None and (advice := tuning.advice(options)):
        notify(f"calibration {tuning.calibration.name}: {advice}; the threshold adapts")
    strategy = _spared(strategy_of(options, tuning, environment), config, notify)
    return strategy, head_of(strategy, options, tuning, session.is_offline)


def _spared(strategy: Strategy, config: Config, notify: Callable[[str], None]) -> Strategy:
    """The strategy, held back while the device is short of charge or hot, if so configured."""
    options = config.device.sparing
    if options.charge is None and options.celsius is None and not options.throttled:
        return strategy
    if strategy.scope == "all" or not strategy.drafts:
        notify(f"strategy {strategy.name} asks for blocks: [device.sparing] does not hold it back")
        return strategy
    watch = Watch(options.charge, options.celsius, options.throttled)
    return replace(strategy, policy=Sparing(strategy.policy, watch, options.threshold, notify))


def handing(
    config: Config,
    device: Device,
    session: Session,
    endpoint: Endpoint | None,
    notify: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> Handoff:
    """When strategy `handoff` hands a reply over to the endpoint, as the options say.

    Raises:
        ConfigError: the threshold is no number, or there is none by the head.
        DataError: the calibration is damaged.
    """
    options = config.strategy
    if isinstance(options.threshold, str):
        raise ConfigError("the threshold of handoff is a number: of the risk over the window")
    own = pair_of(config, device, session)[0]
    threshold = handoff_threshold(config, own, environment)
    if threshold is not None:
        return Handoff(endpoint, options.window, threshold, options.ask_by)
    if options.ask_by == "head":
        raise ConfigError(
            f"no calibration of handoff by the head for {own.name}: give --threshold, or run "
            "`uhlm-edge calibrate --handoff --ask-by head`"
        )
    handoff = Handoff(endpoint, options.window)
    if endpoint is not None:
        notify(
            f"no calibration of handoff for {own.name}: the threshold is the demo "
            f"pair's, {handoff.threshold}; run `uhlm-edge calibrate --handoff`"
        )
    return handoff


def pair_of(config: Config, device: Device, session: Session) -> tuple[ModelKey, ModelKey | None]:
    """Which models these are, as far as it is known before the first upload."""
    path = locate_model(config.device.model)
    digest = model_digest(path) if path.is_file() else None
    fingerprint = device.vocab.fingerprint
    own = ModelKey(name=model_name(config), vocabulary=fingerprint, digest=digest)
    if session.info is not None:
        name = session.info.model
    elif not config.cloud.url:
        partner = locate_model((*config.strategy.partner, config.verifier.model)[0])
        name = partner.name.removesuffix(".gguf")
    else:
        return own, None
    return own, ModelKey(name=name, vocabulary=fingerprint)


def model_name(config: Config) -> str:
    """Name of the device model, as calibrations have it."""
    return find_model(config.device.model).name.removesuffix(".gguf")
