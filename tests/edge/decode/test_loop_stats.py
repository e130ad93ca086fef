"""What a reply cost, by each strategy: the books against what models and link were seen to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from uhlm_edge.edge.events import Token
from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.lm.targets import Contrastive, Weighted

from ...fakes import FakeModel, FakeVocabulary
from ..pairs import pair

SMALL = FakeVocabulary(12)
SLM = FakeModel("slm", 1, SMALL, own=0.7, end=-9.0)
LLM = FakeModel("llm", 2, SMALL, own=0.7, end=-9.0)
PROMPT = [1, 2, 3]
N = 20


class Seen:
    """One reply of N ids, and what was seen of it from outside."""

    def __init__(self, name: str) -> None:
        with pair(SLM, LLM, measure=True) as p:
            device = replace(p.device, head=Doubting())  # type: ignore[arg-type]
            loop = replace(p, device=device).loop(STRATEGIES[name], PROMPT, seed=4, max_tokens=N)
            events = list(loop.events())
            self.stats, self.requests = loop.stats, p.link.requests
            self.passes = len(p.engine.widths)  # of the device, without the one over the prompt
            self.traffic = p.link.traffic
        self.tokens = [event for event in events if isinstance(event, Token)]
        self.passes -= bool(self.passes)
        self.from_cloud = [t for t in self.tokens if t.source == "cloud"]
        self.drafted = sum(len(r.drafts) for r in self.requests)


class Doubting:
    """A head that doubts every third draft."""

    def score(self, index: int, *_: object) -> float:
        return float(index % 3 > 0)

    def reset(self) -> None:
        pass


STRATEGIES = {
    "local": make_strategy("local"),
    "cloud": make_strategy("cloud"),
    "hlm": make_strategy("hlm"),
    "uhlm": make_strategy("uhlm", threshold=0.5),
    "rand": make_strategy("rand", rate=0.3),
    "reward": make_strategy("reward", threshold=0.5),
    "spec": make_strategy("spec", threshold=1.0, draft_limit=3),
    "weighted": make_strategy("ensemble", target=Weighted(weight=0.6), draft_limit=1),
    "contrastive": make_strategy("ensemble", target=Contrastive(mu=0.5), draft_limit=1),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_every_strategy_has_in_common(name: str) -> None:
    seen = Seen(name)
    stats, tokens = seen.stats, seen.tokens
    assert stats.tokens == len(tokens) == N
    assert stats.uploads == stats.calls == len(seen.requests)
    assert stats.transmission_rate == stats.from_llm / N
    assert (stats.uplink_bytes, stats.downlink_bytes) == (
        seen.traffic.payload_up, seen.traffic.payload_down
    )  # fmt: skip
    assert (stats.unverified, stats.audits, stats.offline_reason) == (0, 0, None)


def test_local_asks_nobody() -> None:
    seen = Seen("local")
    assert (seen.stats.drafts, seen.stats.uploads, seen.stats.from_llm) == (N, 0, 0)
    assert not seen.from_cloud


def test_cloud_drafts_nothing_and_asks_for_16_tokens_at_a_time() -> None:
    seen = Seen("cloud")
    assert (seen.stats.drafts, seen.passes) == (0, 0)
    assert [r.bonus for r in seen.requests] == [16, 4]
    assert seen.stats.from_llm == len(seen.from_cloud) == N
    assert seen.stats.rejected == 0  # there was nothing to reject


def test_hlm_has_a_verdict_on_each_token() -> None:
    seen = Seen("hlm")
    assert seen.stats.drafts == seen.passes == seen.stats.uploads == seen.stats.from_llm == N
    assert 0 < seen.stats.rejected == len(seen.from_cloud) < N


@pytest.mark.parametrize("name", ["uhlm", "rand"])
def test_uhlm_and_rand_have_one_on_what_they_upload(name: str) -> None:
    seen = Seen(name)
    assert seen.stats.drafts == seen.passes == N
    assert [len(r.drafts) for r in seen.requests] == [1] * seen.stats.uploads
    assert 0 < seen.stats.from_llm == seen.stats.uploads < N
    assert 0 < seen.stats.rejected == len(seen.from_cloud) < seen.stats.uploads


def test_reward_takes_the_llms_token_and_no_verdict() -> None:
    seen = Seen("reward")
    assert [t.index for t in seen.from_cloud] == list(range(0, N, 3))
    assert seen.stats.uploads == seen.stats.from_llm == len(seen.from_cloud)
    assert seen.stats.rejected == seen.drafted == 0  # a draft that is thrown away was not judged
    assert seen.stats.drafts == seen.passes == N


def test_spec_has_a_verdict_on_each_token_in_fewer_calls() -> None:
    seen = Seen("spec")
    assert seen.stats.from_llm == N > seen.stats.uploads
    assert seen.stats.drafts == seen.passes == seen.drafted > N  # some fell with one before them
    assert 0 < seen.stats.rejected == len(seen.from_cloud)
    assert seen.stats.draft_limit == 3


@pytest.mark.parametrize("name", ["weighted", "contrastive"])
def test_an_ensemble_counts_the_llms_proposals_as_its_own_and_not_as_rejections(name: str) -> None:
    seen = Seen(name)
    proposals = [t for t in seen.from_cloud if t.accepted]
    replaced = [t for t in seen.from_cloud if t.accepted is False]
    turned_down = [t for t in seen.tokens if t.source == "edge" and t.accepted is False]
    assert all((proposals, replaced, turned_down))
    assert seen.stats.from_llm == N
    assert seen.stats.rejected == len(replaced)
    # The drafts of a contrast travel as if they had been skipped: the device judges them.
    sent = sum(len(r.weights) for r in seen.requests) if name == "contrastive" else seen.drafted
    assert seen.drafted == (0 if name == "contrastive" else sent)
    assert seen.stats.drafts == sent
    # A pass of the device for each draft, and for each proposal that it judges; the pass that
    # judges a proposal that stands is also that of the draft after it.
    followed = sum(t.index < N - 1 for t in proposals)
    assert seen.passes == sent + len(proposals) + len(turned_down) - followed
