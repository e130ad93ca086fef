"""Conversations as a workload for the energy measurement, with its phases marked."""

from __future__ import annotations

from collections.abc import Sequence

from ...configs.config import Config
from ...configs.layers import changed
from ...edge.chat.assistant import Assistant
from ...edge.events import Token
from ..harness.stopwatch import Stopwatch, instrument
from .measure import Phases, WorkDone, Workload
from .radio import busy_seconds

PROMPTS = (
    "What is the capital of Chile?",
    "What is 7 times 8?",
    "I'd like to find a restaurant in the centre of town.",
    "Can you help me to plan a weekend by the sea?",
)
"""What is asked when no data are given."""


def seeded(config: Config, strategy: str | None = None) -> Config:
    """The configuration with a fixed seed, and with a strategy if one is named.

    Raises:
        ConfigError: there is no such strategy.
    """
    seed = 1 if config.chat.seed is None else config.chat.seed
    name = config.strategy.name if strategy is None else strategy
    return changed(config, {("chat", "seed"): seed, ("strategy", "name"): name}, "to measure")


def chat_workload(
    assistant: Assistant, prompts: Sequence[str] = PROMPTS, radio_tail_s: float = 0.0
) -> Workload:
    """A workload that answers each prompt in a conversation of its own.

    The prompt phase lasts until the first token is settled, the generation phase from there on.
    Ctrl-C ends it early, with what was counted until then.
    """
    watch = instrument(assistant, Stopwatch())

    def run(phases: Phases) -> WorkDone:
        prompt_tokens = generated = replies = up = down = 0
        interrupted = False
        begun = len(watch.calls)
        try:
            for text in prompts:
                assistant.reset()
                events = assistant.reply(text)
                with phases("prompt"):
                    for event in events:
                        if isinstance(event, Token):
                            break
                try:
                    with phases("generation"):
                        for _ in events:
                            pass
                finally:
                    loop = assistant.loop
                    if loop is not None:
                        generated += len(loop.tokens)
                        prompt_tokens += len(assistant.device.cache) - len(loop.tokens)
                        up, down = up + loop.stats.wire_up, down + loop.stats.wire_down
                replies += 1
        except KeyboardInterrupt:
            interrupted = True
        return WorkDone(
            prompt_tokens,
            generated,
            replies,
            up,
            down,
            busy_seconds(watch.calls[begun:], radio_tail_s),
            interrupted,
        )

    return run
