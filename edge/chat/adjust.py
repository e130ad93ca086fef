"""Give a conversation other options without loading anything again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from ...configs.config import Config
from .assemble import PIPELINED, choose
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
    strategy, head = choose(config, assistant.device, assistant.session, tell, environment)
    options, chat = config.strategy, config.chat
    assistant.device = replace(
        assistant.device, sampler=config.sampler, head=head, measure=options.measure
    )
    assistant.strategy = strategy
    assistant.set_options(chat.system, chat.max_tokens, PIPELINED[options.pipelined], chat.seed)
