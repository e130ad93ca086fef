"""With coupled draws the text is a function of seed and LLM alone, and an upload is ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from uhlm_edge.edge.events import SkippedVerdict
from uhlm_edge.edge.policy.strategy import Strategy, make_strategy
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Sampler
from uhlm_edge.lm.verification import bonus_token

from ...fakes import CLOUD, FakeModel
from ..pairs import PLAIN, Pair, pair

PROMPT = [72, 105, 33]
DRAFTER = FakeModel("another-slm", 9, own=1.0)


def coupled(strategy: Strategy) -> Strategy:
    return replace(strategy, coupling="gumbel")


STRATEGIES = {
    "cloud": make_strategy("cloud"),
    "hlm": make_strategy("hlm"),
    "uhlm below 0": make_strategy("uhlm", threshold=-1.0),
    "spec 1": make_strategy("spec", draft_limit=1, threshold=0.3),
    "spec 4": make_strategy("spec", draft_limit=4, threshold=0.9),
    "spec auto": make_strategy("spec", threshold=0.5),
}


def own_text(seed: int, sampler: Sampler, n: int = 20) -> list[int]:
    """The LLM's own coupled draws, one after another."""
    reply: list[int] = []
    while len(reply) < n and len(CLOUD.vocab) - 1 not in reply:
        p = sampler.probs(Row(CLOUD.row(PROMPT + reply)))
        reply.append(bonus_token(p, seed, len(reply), "gumbel"))
    return reply


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("sampler", [PLAIN, Sampler(), Sampler(temperature=0.0)])
def test_every_strategy_writes_the_llms_own_text(name: str, sampler: Sampler) -> None:
    with pair(sampler=sampler) as p:
        for seed in range(4):
            for pipelined in (False, True):
                ids = p.ids(coupled(STRATEGIES[name]), PROMPT, seed=seed, pipelined=pipelined)
                assert ids == own_text(seed, sampler)


def test_the_text_does_not_depend_on_the_device() -> None:
    with pair(device=DRAFTER) as p:
        assert p.ids(coupled(STRATEGIES["hlm"]), PROMPT, seed=1) == own_text(1, PLAIN)
        assert p.ids(STRATEGIES["hlm"], PROMPT, seed=1) != own_text(1, PLAIN)


def bodies(p: Pair, strategy: Strategy) -> list[int]:
    p.link.requests.clear()
    for seed in range(5):
        p.ids(strategy, PROMPT, seed=seed)
    return [len(request.pack()) for request in p.link.requests if request.settings is None]


def test_an_upload_is_a_few_bytes() -> None:
    with pair() as p:
        with_q, ids_only = bodies(p, STRATEGIES["hlm"]), bodies(p, coupled(STRATEGIES["hlm"]))
    assert np.median(ids_only) <= 20 < np.median(with_q)


def test_a_skipped_token_brings_back_whether_the_llm_would_have_chosen_it() -> None:
    with pair() as p:
        loop = p.loop(coupled(make_strategy("uhlm", threshold=0.6)), PROMPT, max_tokens=60)
        verdicts = [event for event in loop.events() if isinstance(event, SkippedVerdict)]
        reply = [token.id for token in loop.tokens]
        judged = [weight for request in p.link.requests for weight in request.weights]
    assert set(judged) == {TOTAL}  # its id is all that travels
    for verdict in verdicts:
        row = Row(CLOUD.row(PROMPT + reply[: verdict.index]))
        own = bonus_token(PLAIN.probs(row), 0, verdict.index, "gumbel")
        assert verdict.beta == float(own != reply[verdict.index])
    assert {verdict.beta for verdict in verdicts} == {0.0, 1.0}
