"""Both sides stay in step from reply to reply, and compute no position twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.configs.config import StrategyName
from uhlm_edge.edge.events import Token
from uhlm_edge.edge.policy.strategy import make_strategy

from ...fakes import FakeModel, FakeVocabulary
from ..pairs import Pair, Reference, pair

SMALL = FakeVocabulary(12)
SLM = FakeModel("slm", 1, SMALL, own=1.0)
LLM = FakeModel("llm", 2, SMALL, own=1.0)
PROMPT = [1, 2, 3]
HLM = make_strategy("hlm")

seeds = st.integers(0, 2**64 - 1)
prompts = st.lists(st.integers(0, 10), min_size=1, max_size=4)
some = settings(max_examples=15)


def reference(prompt: list[int], seed: int, n: int = 20) -> Reference:
    return Reference(prompt, seed, SLM, LLM, n=n)


def evaluated(p: Pair) -> tuple[int, int]:
    """Positions that the device and the verifier have computed so far."""
    return sum(p.engine.widths), sum(len(w.tokens) for works in p.context.passes for w in works)


@pytest.mark.parametrize("name", ["hlm", "uhlm", "cloud"])
def test_no_position_is_evaluated_twice_in_a_reply(name: StrategyName) -> None:
    strategy = make_strategy(name)
    with pair(SLM, LLM) as p:
        n = len(p.ids(strategy, PROMPT, max_tokens=20))
        on_device, in_cloud = evaluated(p)
    assert n == 20
    assert on_device == (0 if name == "cloud" else len(PROMPT) + n - 1)
    if name == "hlm":  # what went before is in its cache
        assert in_cloud == len(PROMPT) + n - 1
        assert [len(w.tokens) for works in p.context.passes[1:] for w in works] == [1] * (n - 1)


def test_the_next_turn_evaluates_only_what_is_new() -> None:
    with pair(SLM, LLM) as p:
        first = p.ids(HLM, PROMPT, max_tokens=10)
        before = evaluated(p)
        prompt = PROMPT + first + [5, 6, 7]
        second = p.ids(HLM, prompt, seed=9, max_tokens=10)
        after = evaluated(p)
    assert second == reference(prompt, 9, n=10).hlm
    # The last id of the first reply had no row yet; then three new ids and nine of the reply.
    assert after[0] - before[0] == 1 + 3 + 9
    assert after[1] - before[1] == 1 + 3 + 9


def test_another_prompt_keeps_what_it_has_in_common() -> None:
    with pair(SLM, LLM) as p:
        p.ids(HLM, [1, 2, 3, 4, 5], max_tokens=10)
        before = evaluated(p)
        assert p.ids(HLM, [1, 2, 3, 9], max_tokens=1) == reference([1, 2, 3, 9], 0, n=1).hlm
        after = evaluated(p)
    assert after[0] - before[0] == 1
    assert after[1] - before[1] <= 2  # the id before the first new one may be evaluated again


@some
@given(st.lists(st.tuples(prompts, st.sampled_from(["local", "hlm", "uhlm", "cloud"])), max_size=4))
def test_replies_do_not_depend_on_the_replies_before(
    turns: list[tuple[list[int], StrategyName]],
) -> None:
    with pair(SLM, LLM) as p:
        for turn, (prompt, name) in enumerate(turns):
            strategy = make_strategy(name, threshold=0.5)
            expected = reference(prompt, turn)
            wanted = {
                "local": lambda r: r.local,
                "hlm": lambda r: r.hlm,
                "uhlm": lambda r: r.uhlm(0.5),
                "cloud": lambda r: r.cloud_ids,
            }[name](expected)
            assert p.ids(strategy, prompt, seed=turn) == wanted


@some
@given(seeds, st.integers(0, 19), st.sampled_from(["hlm", "uhlm", "cloud"]), st.booleans())
def test_a_reply_that_is_stopped_leaves_both_sides_in_step(
    seed: int, stop: int, name: StrategyName, patient: bool
) -> None:
    strategy = make_strategy(name, threshold=0.5)
    with pair(SLM, LLM, patient=patient) as p:
        loop = p.loop(strategy, PROMPT, seed, pipelined=True)
        events = loop.events()
        said: list[int] = []
        for event in events:
            if isinstance(event, Token):
                said.append(event.id)
            if len(said) > stop:
                break
        events.close()
        p.link.release.set()
        assert said == [token.id for token in loop.tokens]
        assert p.device.cache.ids == PROMPT + said
        assert loop.stats.tokens == len(said)
        assert loop.stats.elapsed > 0.0
        p.link.held = False
        prompt = [*PROMPT, *said, 7]
        assert p.ids(HLM, prompt, seed=seed) == reference(prompt, seed).hlm
