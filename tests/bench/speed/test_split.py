"""Stopwatches around an assistant: the same text, times that add up, phases that are marked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from uhlm_edge.bench.energy import workload as workloads
from uhlm_edge.bench.energy.measure import Phases
from uhlm_edge.bench.energy.workload import PROMPTS, chat_workload
from uhlm_edge.bench.harness.stopwatch import instrument
from uhlm_edge.bench.network.channel import StrategyCost
from uhlm_edge.bench.network.costs import (
    Measured,
    load_costs,
    measure_all,
    measure_cost,
    save_costs,
)
from uhlm_edge.bench.network.link_spec import LinkSpec
from uhlm_edge.bench.network.side_by_side import as_channel
from uhlm_edge.bench.network.slow_engine import SlowEngine
from uhlm_edge.bench.speed.rows import model_rows
from uhlm_edge.bench.speed.split import SPLIT, split_rows, time_tokens
from uhlm_edge.common.errors import DataError, UsageError
from uhlm_edge.common.prompts import asked
from uhlm_edge.configs.config import Config
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.chat.assistant import Assistant
from uhlm_edge.edge.events import Token
from uhlm_edge.lm.engines.protocol import Logits
from uhlm_edge.models.resolve import find_model

from ...fakes import FakeEngine


def config(strategy: str) -> Config:
    flags: dict[tuple[str, ...], object] = {
        ("strategy", "name"): strategy,
        ("chat", "seed"): 1,
        ("chat", "max_tokens"): 24,
    }
    return load_config(flags, "demo", environment={"XDG_CONFIG_HOME": "/nowhere"}).config


@pytest.fixture
def local() -> Iterator[Assistant]:
    with assemble(config("local"), print) as assistant:
        assistant.device = replace(assistant.device, measure=True)
        yield assistant


def write(assistant: Assistant, text: str) -> list[int]:
    return [event.id for event in assistant.reply(text) if isinstance(event, Token)]


def test_stopwatches_do_not_change_what_is_written(local: Assistant) -> None:
    with assemble(config("local"), print) as plain:
        expected = write(plain, PROMPTS[0])
    watch = instrument(local)
    assert write(local, PROMPTS[0]) == expected
    assert watch.seconds["decode"] > 0
    assert watch.seconds["sampling"] > 0
    assert watch.seconds["uncertainty"] > 0
    assert watch.calls == []


def test_the_parts_of_a_tokens_time_add_up(local: Assistant) -> None:
    times = time_tokens(local, PROMPTS[:2], warm_up=1)
    assert {token.reply for token in times} == {0, 1}
    assert [token.index for token in times if token.reply == 0][:3] == [0, 1, 2]
    for token in times:
        whole = sum(token.parts[name] for name in SPLIT if name != "link")
        assert whole == pytest.approx(token.total, abs=1e-4)
        assert token.parts["decode"] > 0
        assert token.parts["link"] == token.parts["wait"] == 0
    rows = {row["part"]: row for row in split_rows(times)}
    assert list(rows) == ["ttft", "total", *SPLIT]
    assert rows["ttft"]["n"] == 2
    assert rows["total"]["n"] == len(times) - 2
    shares = [float(str(rows[name]["share"])) for name in SPLIT if name != "link"]
    assert sum(shares) == pytest.approx(1.0, abs=0.02)
    with pytest.raises(DataError):
        split_rows([])
    with pytest.raises(DataError):
        time_tokens(local, [])


def test_a_conversation_marks_its_phases_and_counts_its_tokens(local: Assistant) -> None:
    clock = iter(range(1000))
    phases = Phases(lambda: float(next(clock)))
    work = chat_workload(local, PROMPTS[:2])(phases)
    assert [name for name, _, _ in phases.intervals] == ["prompt", "generation"] * 2
    assert work.replies == 2
    assert work.prompt_tokens > 10
    assert 2 <= work.generated_tokens <= 48
    assert (work.uplink_bytes, work.radio_s, work.interrupted) == (0, 0, False)


def test_ctrl_c_keeps_what_was_counted(local: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    run = chat_workload(local, PROMPTS[:3])
    real = local.reply
    turns = []

    def interrupted(text: str) -> Iterator[object]:
        turns.append(text)
        for number, event in enumerate(real(text)):
            if len(turns) == 2 and number == 2:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(local, "reply", interrupted)
    phases = Phases(lambda: 0.0)
    work = run(phases)
    assert work.interrupted
    assert work.replies == 1
    assert work.generated_tokens > 2
    assert len(phases.intervals) == 4  # the phase that was under way has its end too
    assert workloads.PROMPTS[1] == turns[1]


def test_real_rows_are_rows_of_the_model() -> None:
    options = config("local").device.engine
    rows = model_rows(find_model("demo-slm"), options, 20)
    assert rows.shape == (20, 8192)
    assert rows.std() > 0


def test_the_cost_of_the_device_alone_has_no_calls() -> None:
    measured = measure_cost(config("local"), "local", asked(PROMPTS[:1]))
    assert measured.cost.calls_per_token == 0
    assert measured.cost.device_ms_per_token > 0
    assert measured.tokens_per_s is not None
    with pytest.raises(UsageError, match="'best'"):
        measure_cost(config("local"), "best", asked(PROMPTS))


def test_a_slowed_device_sleeps_the_rest_of_its_step_and_not_for_prompts() -> None:
    now, slept = [0.0], []

    def work(seconds: float) -> None:
        slept.append(seconds)

    class Quick(FakeEngine):
        def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
            now[0] += 0.010
            return super().eval(tokens, rows)

    engine = SlowEngine(Quick(), 0.030, lambda: now[0], work)
    engine.eval([1, 2, 3])
    assert slept == []
    engine.eval([4])
    assert slept == pytest.approx([0.020])
    assert engine.length == 4
    slow = SlowEngine(Quick(), 0.005, lambda: now[0], work)
    slow.eval([1])
    assert slept[-1] == 0.0
    for seconds in (0.0, -1.0, float("nan"), 60.0):
        with pytest.raises(UsageError):
            SlowEngine(Quick(), seconds)


def test_the_cost_of_a_slowed_device_is_its_time_per_token() -> None:
    measured = measure_cost(config("local"), "local", asked(PROMPTS[1:2]), 0.010)
    assert measured.cost.device_ms_per_token > 9


@pytest.mark.slow
def test_costs_over_loopback_are_those_of_the_strategy(tmp_path: Path) -> None:
    found = measure_all(config("uhlm"), ["hlm", "cloud"], asked(PROMPTS[2:]), lambda _: None)
    assert [item.cost.strategy for item in found] == ["hlm", "hlm pipelined", "cloud"]
    hlm, pipelined, cloud = (item.cost for item in found)
    assert hlm.calls_per_token == pytest.approx(1.0)
    assert hlm.drafts_per_call == pytest.approx(1.0)
    assert 50 < hlm.up_bytes_per_call < 1000
    assert 0 <= hlm.rejection_rate < 1
    assert pipelined == replace(hlm, strategy="hlm pipelined", pipelined=True)
    assert cloud.calls_per_token < 1
    assert cloud.drafts_per_call == 0
    save_costs(found, tmp_path / "costs.json")
    assert load_costs(tmp_path / "costs.json") == found


def test_a_file_of_costs_that_is_wrong_is_refused_by_entry(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(DataError):
        load_costs(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="not a list"):
        load_costs(path)
    good = Measured(StrategyCost("local", 1.0, 0, 0, 0, 0), 10, 5.0)
    save_costs([good, good], path)
    entries = json.loads(path.read_text())
    entries[1]["cost"]["device_ms_per_token"] = -1
    path.write_text(json.dumps(entries))
    with pytest.raises(DataError, match="entry 2: local: costs"):
        load_costs(path)


def test_a_link_becomes_the_channel_with_its_rates() -> None:
    channel = as_channel(LinkSpec(delay_ms=25, up_bps=1e6, down_bps=2e6))
    assert channel.call_s(1000, 1000) == pytest.approx(0.050 + 0.008 + 0.004)
    assert as_channel(LinkSpec(delay_ms=25)).call_s(1000, 1000) == pytest.approx(0.050, rel=1e-3)
