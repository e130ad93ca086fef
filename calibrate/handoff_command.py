"""`uhlm-edge calibrate --handoff`: both models loaded, or the endpoint opened, and the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from ..common.errors import ConfigError
from ..common.prompts import Message
from ..configs.config import Config
from ..edge.chat.adjust import choose, pair_of
from ..edge.chat.assemble import assemble, endpoint_of
from ..edge.chat.assistant import Assistant
from ..edge.decode.handoff import doubts
from ..edge.decode.loop import ReplyLoop
from ..edge.policy.calibration import ModelKey
from ..edge.policy.handoff_calibration import HandoffCalibration
from ..models.resolve import find_model
from .handoff import Ask, Write, calibrate_handoff, with_answers


def run_handoff(
    config: Config, prompts: Path, out: Path, seed: int, advance: Callable[[int, int], None]
) -> HandoffCalibration:
    """Measure the device of a configuration beside its endpoint, or its large model if it has none.

    Raises:
        CloudError: the endpoint failed.
        ConfigError: it lists several models and none was named, or it is a verifier.
        DataError: too few rows with answers.
        ModelError: a model is refused.
    """
    with_answers(prompts)  # before a model is loaded
    with _large(config) as (name, ask), _writer(config, judged=True) as (key, write):
        return calibrate_handoff(config, key, write, ask, name, prompts, out, seed, advance)


@contextmanager
def _large(config: Config) -> Iterator[tuple[str, Ask]]:
    """The name of what answers in the device's place, and how to ask it."""
    if config.cloud.url is None:
        options = {"model": config.verifier.model, "engine": config.verifier.engine}
        device = config.device.model_copy(update=options)
        with _writer(config.model_copy(update={"device": device})) as (key, write):
            yield key.name, lambda messages, seed: write(messages, seed)[0]
        return
    if config.cloud.kind == "verifier":
        raise ConfigError("a verifier is asked token by token: give the URL of an openai endpoint")
    with closing(endpoint_of(config, os.environ)) as endpoint:

        def ask(messages: Sequence[Message], seed: int) -> str:
            pieces = endpoint.stream(messages, config.sampler, seed, config.chat.max_tokens)
            with closing(pieces):
                return "".join(pieces)

        yield endpoint.model, ask


@contextmanager
def _writer(config: Config, judged: bool = False) -> Iterator[tuple[ModelKey, Write]]:
    """The device's model, and what it writes alone."""
    options = config.strategy.model_copy(update={"name": "local", "calibration": None})
    config = config.model_copy(update={"strategy": options})
    find_model(config.device.model)
    with assemble(config, lambda text: None) as base:
        head, chat = None, config.chat
        by = config.strategy.ask_by if judged else "uncertainty"
        if by == "head":
            asking = options.model_copy(update={"name": "handoff"})
            whole = config.model_copy(update={"strategy": asking})
            head = choose(whole, base.device, base.session, lambda text: None)[1]
        device = replace(base.device, measure=True, head=head)

        def write(messages: Sequence[Message], seed: int) -> tuple[str, list[float]]:
            assistant = Assistant(
                device, base.session, base.strategy, chat.system, chat.max_tokens, seed
            )
            for _ in assistant.answer(messages):
                pass
            assert isinstance(assistant.loop, ReplyLoop)  # noqa: S101 - the strategy is local
            return assistant.text, doubts(assistant.loop, by)

        yield pair_of(config, device, base.session)[0], write
