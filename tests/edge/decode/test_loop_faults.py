"""A verifier that fails: the text goes on as the device alone would have written it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.configs.config import StrategyName
from uhlm_edge.edge.events import Draft, Token
from uhlm_edge.edge.link.session import Session
from uhlm_edge.edge.policy.strategy import STRATEGIES, make_strategy
from uhlm_edge.edge.transcript import Transcript
from uhlm_edge.lm.targets import Weighted
from uhlm_edge.wire.messages import Limits

from ...fakes import FakeModel, FakeVocabulary
from ..pairs import FAULTS, Fault, Reference, ids_of, notices, pair

SMALL = FakeVocabulary(12)
SLM = FakeModel("slm", 1, SMALL, own=1.0)
LLM = FakeModel("llm", 2, SMALL, own=1.0)
PROMPT = [1, 2, 3]
HLM = make_strategy("hlm")

seeds = st.integers(0, 2**64 - 1)
faults = st.sampled_from(FAULTS)
some = settings(max_examples=20)


def reference(seed: int) -> Reference:
    return Reference(PROMPT, seed, SLM, LLM)


@some
@given(seeds, st.integers(0, 19), faults)
def test_after_a_fault_the_device_goes_on_alone(seed: int, call: int, fault: Fault) -> None:
    """The breaker stays open here, so nothing is asked after the first fault."""
    with pair(SLM, LLM, fault=lambda n: fault if n == call else None) as p:
        events = p.events(HLM, PROMPT, seed=seed)
        stats = p.loops[0].stats
        asked = p.link.asked
    tokens = [event for event in events if isinstance(event, Token)]
    failed = call < len(reference(seed).hlm)
    assert ids_of(events) == reference(seed).local_at(set(range(call, 20)))
    assert len(notices(events)) == int(failed)
    assert asked == min(call + 1, len(tokens))
    assert (stats.offline_reason is not None) == failed
    assert stats.tokens == len(tokens)
    assert stats.from_llm == min(call, len(tokens))
    assert stats.uploads == asked
    for token in tokens[call:]:
        assert token.source == "edge"
        assert token.accepted is None  # marked as not verified
        assert token.uploaded == (token.index == call)


@some
@given(seeds, st.sets(st.integers(0, 19), max_size=8), faults)
def test_faults_that_pass_leave_only_their_own_tokens_unverified(
    seed: int, calls: set[int], fault: Fault
) -> None:
    """With `hlm` a token is a call; the next one is asked about again."""
    with pair(SLM, LLM, fault=lambda n: fault if n in calls else None) as p:
        p.clock.tick = 100.0  # every look at the clock finds the breaker half-open
        events = p.events(HLM, PROMPT, seed=seed)
    assert ids_of(events) == reference(seed).local_at(calls)
    assert len(notices(events)) == int(any(call < len(ids_of(events)) for call in calls))


@some
@given(seeds, st.sampled_from(STRATEGIES), st.integers(0, 6), faults, st.booleans())
def test_every_strategy_writes_to_its_end_whatever_fails(
    seed: int, name: StrategyName, call: int, fault: Fault, pipelined: bool
) -> None:
    strategy = make_strategy(
        name, threshold=0.5, rate=0.5, draft_limit=3, target=Weighted(weight=0.5)
    )
    with pair(SLM, LLM, fault=lambda n: fault if n >= call else None) as p:
        events = p.events(strategy, PROMPT, seed=seed, pipelined=pipelined)
        stats, asked = p.loops[0].stats, p.link.asked
        ids = ids_of(events)
        assert len(ids) == 20 or ids[-1] == 11
        assert len(notices(events)) == int(asked > call)
        assert (stats.offline_reason is not None) == (asked > call)
        tokens = [event for event in events if isinstance(event, Token)]
        assert [token.index for token in tokens] == list(range(len(tokens)))
        assert tokens == p.loops[0].tokens  # settled text is never changed
        if asked > call:  # from the fault on: what the device alone would have written
            unverified = [t for t in tokens if t.accepted is None and t.source == "edge"]
            for token in unverified:
                before = ids[: token.index]
                assert token.id == reference(seed).draft(before)
        # And both sides are in step for the next reply.
        p.link.fault = lambda n: None
        p.link.release.set()
        p.clock.now += 1000.0
        prompt = [*PROMPT, *ids, 4]
        assert p.ids(HLM, prompt, seed=seed) == Reference(prompt, seed, SLM, LLM).hlm


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_once_however_often_it_happens(fault: Fault) -> None:
    with pair(SLM, LLM, fault=lambda n: fault) as p:
        p.clock.tick = 100.0
        events = p.events(HLM, PROMPT)
    assert len(notices(events)) == 1
    assert "going on with the device alone" in notices(events)[0]
    assert ids_of(events) == reference(0).local


def test_a_verifier_that_forgot_everything_gets_it_again() -> None:
    with pair(SLM, LLM) as p:
        for event in p.loop(HLM, PROMPT).events():
            assert isinstance(event, Token)
            assert event.id == reference(0).hlm[event.index]
            p.service.verifier.store.drop(("", p.session._id))
        assert p.loops[0].stats.offline_reason is None


def test_a_tried_call_that_was_answered_is_not_counted_twice() -> None:
    """The answer is lost, the token settled on the device, and the next call rolls back."""
    with pair(SLM, LLM, fault=lambda n: "answer lost" if n % 2 else None) as p:
        p.clock.tick = 100.0
        events = p.events(HLM, PROMPT)
        assert p.loops[0].stats.from_llm == 10
    assert ids_of(events) == reference(0).local_at(set(range(1, 20, 2)))


@pytest.mark.parametrize("name", ["hlm", "uhlm", "spec", "ensemble", "reward"])
@pytest.mark.parametrize("pipelined", [False, True])
def test_after_a_fault_that_passes_the_reply_is_hybrid_again(
    name: StrategyName, pipelined: bool
) -> None:
    """The breaker lets one probe through, and what is drafted meanwhile waits for its answer."""
    strategy = make_strategy(name, threshold=-1.0, draft_limit=2, target=Weighted(weight=0.5))
    with pair(SLM, LLM, fault=lambda n: "lost" if n == 2 else None, patient=pipelined) as p:
        p.clock.tick = 100.0
        p.events(strategy, PROMPT, seed=3, pipelined=pipelined, max_tokens=60)
        loop = p.loops[0]
    last = max(token.index for token in loop.tokens if token.unverified)
    assert 1 <= loop.stats.unverified <= 4
    assert len(loop.tokens) > last + 5
    for token in loop.tokens[last + 1 :]:
        assert token.source == "cloud" or token.accepted is not None


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("name", ["hlm", "uhlm", "cloud", "spec", "reward", "ensemble"])
def test_smaller_limits_of_a_verifier_are_kept_to_from_the_first_call_on(
    name: StrategyName, pipelined: bool
) -> None:
    """Also when they become smaller: it was started again with others."""
    least = {"drafts_per_call": 1, "bonus_per_call": 1, "weights_per_call": 1}
    strategy = make_strategy(name, threshold=-1.0, draft_limit=5, target=Weighted(weight=0.5))
    with pair(SLM, LLM, limits=Limits(wire_top=6, **least)) as p:
        for wire_top in (6, 4):
            p.service.limits = Limits(wire_top=wire_top, **least)
            events = p.events(strategy, PROMPT, pipelined=pipelined)
            assert notices(events) == []
            assert p.loops[-1].stats.unverified == 0
            if name == "hlm":
                assert ids_of(events) == Reference(PROMPT, 0, SLM, LLM, wire_top=wire_top).hlm


@pytest.mark.parametrize("name", ["spec", "ensemble"])
def test_a_breaker_that_lets_a_probe_through_at_any_look_costs_nothing_more(
    name: StrategyName,
) -> None:
    """Whichever look of whichever round it is, the last one of a reply too."""
    strategy = make_strategy(name, draft_limit=3, target=Weighted(weight=0.5))
    for tick in (0.011, 0.017, 0.023, 0.031, 0.053):
        for max_tokens in range(3, 12):
            with pair(SLM, LLM, fault=lambda n: "lost" if n == 0 else None) as p:
                p.clock.tick = tick
                events = p.events(strategy, PROMPT, max_tokens=max_tokens)
                assert len(ids_of(events)) == max_tokens or ids_of(events)[-1] == 11
                assert len(notices(events)) == 1
                assert all(request.bonus >= 0 for request in p.link.requests)
                p.clock.now += 1000.0
                assert p.session.ready


@pytest.mark.parametrize("name", ["spec", "ensemble", "hlm"])
def test_a_breaker_that_changes_its_mind_at_every_look_leaves_no_draft_behind(
    name: StrategyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is asked about or committed: none is drafted after the last."""
    strategy = make_strategy(name, draft_limit=3, target=Weighted(weight=0.5))
    looks, furthest = random.Random(), 0
    push = Transcript.push

    def pushed(text: Transcript, draft: Draft) -> None:
        nonlocal furthest
        furthest = max(furthest, draft.index)
        push(text, draft)

    monkeypatch.setattr(Transcript, "push", pushed)
    monkeypatch.setattr(Session, "ready", property(lambda _: looks.random() < 0.5))
    for seed in range(40):
        looks.seed(seed)
        with pair(SLM, LLM) as p:
            ids = ids_of(p.events(strategy, PROMPT, seed=seed, max_tokens=6))
        assert len(ids) == 6 or 11 in ids
        assert furthest < 6
