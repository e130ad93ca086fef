"""Other options for a conversation that is open: they are checked as at its start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.configs.config import Config
from uhlm_edge.configs.layers import changed, load_config
from uhlm_edge.edge.chat.adjust import adjust
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.chat.assistant import Assistant
from uhlm_edge.edge.events import Token
from uhlm_edge.edge.link.in_process import load_partner


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config({("strategy", "threshold"): 0.5}, "demo", environment={}).config


@pytest.fixture(scope="module")
def pair(config: Config) -> Iterator[Assistant]:
    with assemble(config, lambda _: None, load_partner(config), environment={}) as assistant:
        yield assistant


def test_a_calibration_that_is_not_there_is_told_offline_too(config: Config) -> None:
    alone = changed(config, {("cloud", "offline"): True})
    with (
        assemble(alone, lambda _: None, environment={}) as assistant,
        pytest.raises(ConfigError, match="nosuch"),
    ):
        adjust(assistant, changed(alone, {("strategy", "calibration"): "nosuch"}), {})


def test_a_calibration_s_advice_is_told_when_the_strategy_is_chosen(
    pair: Assistant, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = changed(config, {("strategy", "calibration"): "dialogues"})
    adjust(pair, changed(weak, {("strategy", "threshold"): None}), {})
    assert "the threshold adapts" in capsys.readouterr().err


def test_a_head_is_there_only_while_the_strategy_asks_it(pair: Assistant, config: Config) -> None:
    adjust(pair, changed(config, {("strategy", "name"): "reward"}), {})
    assert pair.device.head is not None
    adjust(pair, config, {})
    assert pair.device.head is None


def test_u_is_measured_as_the_options_say_now(pair: Assistant, config: Config) -> None:
    def is_share_of(draws: int) -> bool:
        events = list(pair.answer([{"role": "user", "content": "Tell me a story."}]))
        us = [event.uncertainty for event in events if isinstance(event, Token)]
        return all(u is not None and abs(draws * u - round(draws * u)) < 1e-6 for u in us)

    always: dict[Any, Any] = {("strategy", "name"): "local", ("strategy", "measure"): True}
    options = changed(config, always)
    adjust(pair, options, {})
    assert is_share_of(20)
    adjust(pair, changed(options, {("strategy", "samples"): 3}), {})
    assert is_share_of(3)
    adjust(pair, changed(options, {("strategy", "estimator"): "expected"}), {})
    assert not is_share_of(20)
    adjust(pair, config, {})


@pytest.fixture
def handing_over() -> Iterator[tuple[Assistant, Config]]:
    """A chat of strategy handoff, with nobody to hand over to."""
    given: dict[Any, Any] = {("strategy", "name"): "handoff", ("cloud", "offline"): True}
    config = load_config(given, "demo", environment={}).config
    with assemble(config, lambda _: None, environment={}) as assistant:
        yield assistant, config


def begins(assistant: Assistant) -> str:
    """Why its next reply is whose."""
    token = next(iter(assistant.answer([{"role": "user", "content": "Book a table."}])))
    assert isinstance(token, Token)
    assert token.reason is not None
    return token.reason


def test_what_hands_a_reply_over_changes_in_an_open_chat(
    handing_over: tuple[Assistant, Config],
) -> None:
    assistant, config = handing_over
    threshold = assistant.threshold
    assert begins(assistant).endswith(f"{threshold:.3f}")
    adjust(assistant, changed(config, {("strategy", "threshold"): 0.9}), {})
    assert assistant.threshold == 0.9
    assert begins(assistant).startswith("mean u ")
    assert begins(assistant).endswith("<= 0.900")
    by_head: dict[Any, Any] = {("strategy", "ask_by"): "head", ("strategy", "threshold"): 0.8}
    adjust(assistant, changed(config, by_head), {})
    assert begins(assistant).startswith("expected rejection ")
    assert begins(assistant).endswith("<= 0.800")


def test_the_head_gets_no_threshold_of_u(handing_over: tuple[Assistant, Config]) -> None:
    assistant, config = handing_over
    threshold = assistant.threshold
    with pytest.raises(ConfigError, match="no calibration of handoff by the head"):
        adjust(assistant, changed(config, {("strategy", "ask_by"): "head"}), {})
    assert begins(assistant).startswith("mean u ")  # as before
    assert (assistant.threshold, assistant.strategies) == (threshold, ("local", "handoff"))


def test_a_strategy_that_needs_another_start_is_refused(
    handing_over: tuple[Assistant, Config], pair: Assistant, config: Config
) -> None:
    local = changed(config, {("strategy", "name"): "local"})
    with assemble(local, lambda _: None, environment={}) as alone:
        assert alone.strategies == ("local",)  # it has looked for no verifier
        with pytest.raises(ConfigError, match="another start, with --strategy hlm"):
            adjust(alone, changed(local, {("strategy", "name"): "hlm"}), {})
    for open_chat, was, name in ((*handing_over, "uhlm"), (pair, config, "handoff")):
        with pytest.raises(ConfigError, match=f"another start, with --strategy {name}"):
            adjust(open_chat, changed(was, {("strategy", "name"): name}), {})
        assert open_chat.strategy.name == was.strategy.name
