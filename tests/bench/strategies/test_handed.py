"""Strategy `handoff` in a benchmark: what both models did is counted, and whose reply it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from uhlm_edge.bench.harness.meter import CountingEngine
from uhlm_edge.bench.harness.scoring import Outcome
from uhlm_edge.bench.strategies.handed import HandoffWriter, LocalEndpoint
from uhlm_edge.common.errors import CloudError
from uhlm_edge.common.prompts import Case
from uhlm_edge.configs.config import ChatOptions, Config
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.chat.assistant import Assistant
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.decode.handoff import Endpoint, Handoff
from uhlm_edge.edge.link.openai import OpenAiEndpoint
from uhlm_edge.edge.link.session import Session
from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.lm.engines.protocol import Engine

from ...edge.pairs import PLAIN, Pair, pair
from ...fakes import CLOUD, FakeEngine

CASE = Case(1, ({"role": "user", "content": "hi"},), answer="ok")
CONFIG = Config(chat=ChatOptions(max_tokens=12))
NEVER, ALWAYS = 2.0, -1.0


@pytest.fixture
def p() -> Iterator[Pair]:
    with pair() as p:
        yield p


def alone(engine: Engine) -> Assistant:
    device = Device(TokenCache(engine), PLAIN)
    session = Session(None, device.vocab)
    writer = Assistant(device, session, make_strategy("local"), max_tokens=12, seed=5)
    list(writer.answer(CASE.messages))
    return writer


def outcome(p: Pair, endpoint: Endpoint, threshold: float, llm: CountingEngine | None) -> Outcome:
    device = replace(p.device, sampler=PLAIN)
    base = Assistant(
        device, Session(None, device.vocab), make_strategy("handoff"),
        handoff=Handoff(endpoint, 6, threshold),
    )  # fmt: skip
    return HandoffWriter(base, CONFIG, llm).write(CASE, 5)


def test_a_reply_that_is_handed_over_is_the_large_models_own_and_its_work_is_counted(
    p: Pair,
) -> None:
    llm = CountingEngine(FakeEngine(CLOUD))
    found = outcome(p, LocalEndpoint(llm), ALWAYS, llm)
    own = alone(FakeEngine(CLOUD))
    assert found.text == own.text != alone(p.device.cache.engine).text
    assert (found.calls, found.skipped, found.requests) == (1, 0, None)
    assert own.loop is not None
    assert found.llm_positions == llm.work.positions >= len(own.loop.tokens)
    assert found.drafts <= 6  # the window is the device's work all the same


def test_a_reply_that_is_kept_is_the_devices_own_and_costs_the_large_model_nothing(
    p: Pair,
) -> None:
    llm = CountingEngine(FakeEngine(CLOUD))
    found = outcome(p, LocalEndpoint(llm), NEVER, llm)
    assert found.text == alone(p.device.cache.engine).text
    assert (found.calls, found.llm_passes, found.llm_positions) == (0, 0, 0)
    assert found.skipped == found.tokens > 0
    assert found.bodies == []


def test_a_model_elsewhere_tells_no_passes_and_its_positions_are_what_it_read_and_wrote(
    p: Pair,
) -> None:
    far = outcome(p, LocalEndpoint(FakeEngine(CLOUD)), ALWAYS, None)
    llm = CountingEngine(FakeEngine(CLOUD))
    near = outcome(p, LocalEndpoint(llm), ALWAYS, llm)
    assert far.llm_passes is None
    assert far.llm_positions is not None
    assert near.llm_positions is not None
    assert abs(far.llm_positions - near.llm_positions) <= 2  # the last token is written, not read


def test_an_endpoint_that_fails_ends_the_measurement(p: Pair) -> None:
    with pytest.raises(CloudError, match="cannot reach"):
        outcome(p, OpenAiEndpoint("http://127.0.0.1:9", "big"), ALWAYS, None)
