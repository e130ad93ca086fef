"""Give a conversation other options without loading anything again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from ...common.errors import ConfigError
from ...configs.config import Config
from ..policy.tuning import PUBLISHED_THRESHOLD, find_tuning, needs_calibration, strategy_of
from .assemble import PIPELINED, pair_of, spared
from .assistant import Assistant
from .show import tell

__all__ = ["adjust"]


def adjust(
    assistant: Assistant, config: Config, environment: Mapping[str, str] = os.environ
) -> None:
    """Let the next reply be as `config` says in its sections strategy, sampler and chat.

    Raises:
        ConfigError: options that do not fit each other, or a strategy that needs a calibration.
        DataError: the calibration is damaged.
    """
    options, device, tuning = config.strategy, assistant.device, None
    if assistant.session.is_offline:  # nobody to ask, so it does not matter when
        options = options.model_copy(update={"threshold": PUBLISHED_THRESHOLD})
    elif needs_calibration(options):
        tuning = find_tuning(config, *pair_of(config, device, assistant.session), environment)
    strategy = spared(strategy_of(options, tuning, environment), config, tell)
    head = device.head
    if "reward" in strategy.policy.needs and not assistant.session.is_offline:
        if tuning is None:
            raise ConfigError("no reward head for this pair; run `uhlm-edge calibrate`")
        head = tuning.head(options)
    assistant.device = replace(device, sampler=config.sampler, head=head)
    assistant.strategy = strategy
    assistant.set_options(
        config.chat.system, config.chat.max_tokens, PIPELINED[options.pipelined], config.chat.seed
    )
