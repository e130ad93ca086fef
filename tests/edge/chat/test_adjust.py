"""Other options for a conversation that is open: they are checked as at its start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.configs.config import Config
from uhlm_edge.configs.layers import changed, load_config
from uhlm_edge.edge.chat.adjust import adjust
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.chat.assistant import Assistant
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
