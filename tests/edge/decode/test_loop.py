"""The loop over a real verifier: which ids it settles, where a text ends, and what it tells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.configs.config import StrategyName
from uhlm_edge.edge.events import Event, Token
from uhlm_edge.edge.policy.strategy import STRATEGIES, make_strategy
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import Weighted
from uhlm_edge.wire.messages import Limits

from ...fakes import FakeModel, FakeVocabulary
from ..pairs import GREEDY, PLAIN, Reference, betas, ids_of, notices, pair

SMALL = FakeVocabulary(12)
SLM = FakeModel("slm", 1, SMALL, own=1.0)
LLM = FakeModel("llm", 2, SMALL, own=1.0)
ENDING = FakeModel("ending-slm", 1, SMALL, own=1.0, end=1.0)
ENDING_LLM = FakeModel("ending-llm", 2, SMALL, own=1.0, end=1.0)
PROMPT = [1, 2, 3]

LOCAL, HLM, CLOUD = make_strategy("local"), make_strategy("hlm"), make_strategy("cloud")

samplers = st.sampled_from(
    [PLAIN, GREEDY, Sampler(), Sampler(temperature=0.8, top_k=4), Sampler(min_p=0.1)]
)
seeds = st.integers(0, 2**64 - 1)
prompts = st.lists(st.integers(0, 10), min_size=1, max_size=4)
some = settings(max_examples=15)


def reference(prompt: list[int], seed: int, sampler: Sampler = PLAIN, n: int = 20) -> Reference:
    return Reference(prompt, seed, SLM, LLM, sampler, n=n)


# What is written


@some
@given(prompts, seeds, samplers)
def test_local_writes_what_the_device_alone_draws(
    prompt: list[int], seed: int, sampler: Sampler
) -> None:
    with pair(SLM, LLM, sampler) as p:
        assert p.ids(LOCAL, prompt, seed=seed) == reference(prompt, seed, sampler).local
        assert p.ids(HLM, prompt, seed=seed, offline=True) == ids_of(
            p.events(LOCAL, prompt, seed=seed)
        )
        assert p.link.asked == 0


@some
@given(prompts, seeds, samplers)
def test_hlm_writes_what_the_accept_rule_says_of_each_draft(
    prompt: list[int], seed: int, sampler: Sampler
) -> None:
    with pair(SLM, LLM, sampler) as p:
        assert p.ids(HLM, prompt, seed=seed) == reference(prompt, seed, sampler).hlm


@some
@given(prompts, seeds, samplers)
def test_cloud_writes_what_the_llm_alone_draws(
    prompt: list[int], seed: int, sampler: Sampler
) -> None:
    with pair(SLM, LLM, sampler) as p:
        assert p.ids(CLOUD, prompt, seed=seed) == reference(prompt, seed, sampler).cloud_ids


@some
@given(prompts, seeds, samplers)
def test_uhlm_with_threshold_one_is_local(prompt: list[int], seed: int, sampler: Sampler) -> None:
    with pair(SLM, LLM, sampler) as p:
        always = make_strategy("uhlm", threshold=1.0)
        assert p.ids(always, prompt, seed=seed) == p.ids(LOCAL, prompt, seed=seed)
        assert p.link.asked == 0


@some
@given(prompts, seeds, samplers)
def test_uhlm_with_a_negative_threshold_is_hlm(
    prompt: list[int], seed: int, sampler: Sampler
) -> None:
    with pair(SLM, LLM, sampler) as p:
        never = make_strategy("uhlm", threshold=-0.001)
        assert p.ids(never, prompt, seed=seed) == p.ids(HLM, prompt, seed=seed)


@some
@given(prompts, seeds, st.sampled_from([0.0, 0.3, 0.6, 0.9]))
def test_uhlm_asks_exactly_where_u_exceeds_the_threshold(
    prompt: list[int], seed: int, threshold: float
) -> None:
    strategy = make_strategy("uhlm", threshold=threshold)
    with pair(SLM, LLM) as p:
        events = p.events(strategy, prompt, seed=seed)
    tokens = [event for event in events if isinstance(event, Token)]
    assert [t.id for t in tokens] == reference(prompt, seed).uhlm(threshold)
    for i, token in enumerate(tokens):
        assert token.index == i
        assert token.uncertainty == reference(prompt, seed).u([t.id for t in tokens[:i]])
        assert token.uploaded == (token.uncertainty > threshold)


@some
@given(prompts, seeds)
def test_at_temperature_0_hlm_writes_what_cloud_does(prompt: list[int], seed: int) -> None:
    with pair(SLM, LLM, GREEDY) as p:
        assert p.ids(HLM, prompt, seed=seed) == p.ids(CLOUD, prompt, seed=seed)


@some
@given(prompts, seeds, st.integers(1, 6), st.sampled_from([-0.1, 0.5, 1.0]), st.booleans())
def test_spec_writes_what_hlm_does_with_any_block(
    prompt: list[int], seed: int, limit: int, threshold: float, pipelined: bool
) -> None:
    strategy = make_strategy("spec", threshold=threshold, draft_limit=limit)
    with pair(SLM, LLM, patient=pipelined) as p:
        ids = p.ids(strategy, prompt, seed=seed, pipelined=pipelined)
    assert ids == reference(prompt, seed).hlm


@some
@given(prompts, seeds)
def test_the_llm_supplies_each_token_whose_draft_is_thrown_away(
    prompt: list[int], seed: int
) -> None:
    """Nothing predicts a reward here, so that no draft is good enough."""
    with pair(SLM, LLM) as p:
        ids = p.ids(make_strategy("reward"), prompt, seed=seed)
    assert ids == reference(prompt, seed).cloud_ids


@some
@given(seeds, st.sampled_from([1, 2, 5]))
def test_a_short_wire_changes_drafts_and_not_the_rule(seed: int, wire_top: int) -> None:
    with pair(SLM, LLM, wire_top=wire_top) as p:
        expected = Reference(PROMPT, seed, SLM, LLM, wire_top=wire_top)
        assert p.ids(HLM, PROMPT, seed=seed) == expected.hlm


# Where a text ends


@some
@given(seeds, st.sampled_from(["local", "hlm", "cloud", "spec"]))
def test_nothing_follows_an_end_of_text(seed: int, name: StrategyName) -> None:
    expected = Reference(PROMPT, seed, ENDING, ENDING_LLM)
    hlm = expected.hlm
    wanted = {"local": expected.local, "hlm": hlm, "spec": hlm, "cloud": expected.cloud_ids}[name]
    with pair(ENDING, ENDING_LLM) as p:
        ids = p.ids(make_strategy(name), PROMPT, seed=seed)
    assert ids == wanted
    assert len(ids) == 20 or ids[-1] == 11


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_token_limit_is_the_length_of_the_reply(name: StrategyName, limit: int) -> None:
    with pair(SLM, LLM) as p:
        strategy = make_strategy(name, target=Weighted(weight=0.5))
        assert len(p.ids(strategy, PROMPT, max_tokens=limit)) == limit
        assert p.loops[0].text.ended
        assert all(request.bonus <= limit for request in p.link.requests)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("cloud_n_ctx", [9, 256])
def test_a_full_context_ends_the_reply(name: StrategyName, cloud_n_ctx: int) -> None:
    strategy = make_strategy(name, target=Weighted(weight=0.5))
    with pair(SLM, LLM, n_ctx=9, cloud_n_ctx=cloud_n_ctx) as p:
        events = p.events(strategy, PROMPT, max_tokens=100)
    assert len(ids_of(events)) == 6
    assert notices(events) == []


def test_a_prompt_that_fills_the_context_gets_no_reply() -> None:
    with pair(SLM, LLM, n_ctx=3) as p:
        assert p.events(HLM, PROMPT) == []
        assert p.link.asked == 0


def test_a_smaller_context_of_the_verifier_ends_nothing() -> None:
    """The device goes on alone: one notice, and a reply of full length."""
    with pair(SLM, LLM, cloud_n_ctx=8) as p:
        events = p.events(HLM, PROMPT)
        assert len(ids_of(events)) == 20
        assert len(notices(events)) == 1
        assert ids_of(events) == reference(PROMPT, 0).local_at(set(range(5, 20)))


def test_a_prompt_of_one_token_has_a_reply() -> None:
    with pair(SLM, LLM) as p:
        assert p.ids(HLM, [4]) == reference([4], 0).hlm


def test_a_long_prompt_is_sent_in_several_calls() -> None:
    prompt = [i % 11 for i in range(100)]
    with pair(SLM, LLM, limits=Limits(tokens_per_call=16)) as p:
        assert p.ids(HLM, prompt, max_tokens=5) == reference(prompt, 0, n=5).hlm
        assert all(len(request.tokens) <= 16 for request in p.link.requests)


# What is told


@some
@given(prompts, seeds, st.sampled_from([0.3, 0.6]))
def test_the_betas_of_skipped_tokens_come_back_with_the_next_upload(
    prompt: list[int], seed: int, threshold: float
) -> None:
    with pair(SLM, LLM) as p:
        events = p.events(make_strategy("uhlm", threshold=threshold), prompt, seed=seed)
    tokens = [event for event in events if isinstance(event, Token)]
    uploads = [t.index for t in tokens if t.uploaded]
    skipped = [t.index for t in tokens if not t.uploaded]
    told = betas(events)
    assert list(told) == [i for i in skipped if uploads and i < uploads[-1]]
    for index, beta in told.items():
        before = [t.id for t in tokens[:index]]
        assert beta == pytest.approx(reference(prompt, seed).beta(before), abs=1e-6)


def test_a_judged_token_carries_the_u_it_was_skipped_at() -> None:
    with pair(SLM, LLM) as p:
        events = p.events(make_strategy("uhlm", threshold=0.5), PROMPT, seed=3)
    us = {event.index: event.uncertainty for event in events if isinstance(event, Token)}
    judged = [event for event in events if not isinstance(event, Token)]
    assert judged
    assert all(us[event.index] == event.uncertainty for event in judged)  # type: ignore[union-attr]


def test_the_source_of_a_token_says_whether_the_draft_stands() -> None:
    with pair(SLM, LLM) as p:
        events = p.events(HLM, PROMPT, seed=5)
    tokens = [event for event in events if isinstance(event, Token)]
    for i, token in enumerate(tokens):
        draft = reference(PROMPT, 5).draft([t.id for t in tokens[:i]])
        assert token.uploaded
        assert token.accepted is (token.id == draft)
        assert token.source == ("edge" if token.id == draft else "cloud")


@some
@given(prompts, seeds, st.sampled_from(["hlm", "uhlm", "cloud", "rand", "reward"]), st.booleans())
def test_pipelining_changes_no_id(
    prompt: list[int], seed: int, name: StrategyName, patient: bool
) -> None:
    strategy = make_strategy(name, threshold=0.6, rate=0.3)
    with pair(SLM, LLM) as p:
        plain = p.events(strategy, prompt, seed=seed, pipelined=False)
    with pair(SLM, LLM, patient=patient) as p:
        pipelined = p.events(strategy, prompt, seed=seed, pipelined=True)
    assert [timeless(e) for e in pipelined] == [timeless(e) for e in plain]


def timeless(event: Event) -> Event:
    return replace(event, time=0.0) if isinstance(event, Token) else event


def test_pipelining_drafts_while_a_call_is_under_way() -> None:
    with pair(SLM, LLM, patient=True) as p:
        p.ids(make_strategy("uhlm", threshold=0.9), PROMPT, seed=1, pipelined=True)
        assert p.loops[0].stats.drafts > p.loops[0].stats.tokens  # some were void


def test_nothing_leaves_the_device_before_the_first_upload() -> None:
    with pair(SLM, LLM) as p:
        loop = p.loop(make_strategy("uhlm", threshold=0.8), PROMPT, seed=2)
        for event in loop.events():
            if not isinstance(event, Token) or event.uploaded:
                break
            assert p.link.asked == 0
        assert p.link.asked == 1
