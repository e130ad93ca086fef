"""Recorded replies become calls that a verifier takes, at the rate that was asked for."""

from __future__ import annotations

import pytest

from uhlm_edge.bench.load.trace import fits, steps_of
from uhlm_edge.wire.messages import Limits, Request, prefix_hash

from .played import N_VOCAB, trace

TRACES = [trace("hello"), trace("again", 20, wrong=(3, 9))]


@pytest.mark.parametrize(("rate", "drafts"), [(1.0, 1), (0.1, 1), (0.5, 1), (1.0, 5)])
def test_every_token_is_covered_once_and_every_call_is_well_formed(
    rate: float, drafts: int
) -> None:
    for one, steps in zip(TRACES, steps_of(TRACES, rate, drafts), strict=True):
        assert sum(step.tokens for step in steps) == len(one.turns)
        text = [*one.prompt, *(turn.settled for turn in one.turns)]
        for step in steps:
            if not step.drafts:
                continue
            end = len(one.prompt) + step.begin + len(step.skipped)
            ids = [*text[:end], *step.drafts]
            Request(1, 0, prefix_hash([]), ids, step.skipped, step.qs, settings=one.settings).check(
                Limits(), N_VOCAB
            )


@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0])
def test_the_share_of_uploads_is_the_one_asked_for_and_takes_the_doubtful_tokens(
    rate: float,
) -> None:
    all_steps = steps_of(TRACES, rate, 1)
    uploads = [
        (i, step.begin + step.tokens - 1) for i, s in enumerate(all_steps) for step in s
        if step.drafts
    ]  # fmt: skip
    turns = [(i, j) for i, one in enumerate(TRACES) for j in range(len(one.turns))]
    assert len(uploads) == round(rate * len(turns))
    asked = [TRACES[i].turns[j].doubt for i, j in uploads]
    kept = [TRACES[i].turns[j].doubt for i, j in turns if (i, j) not in uploads]
    assert min(asked) >= max(kept, default=0.0)


def test_the_next_block_begins_after_the_draft_that_the_verifier_replaced() -> None:
    blocks = steps_of(TRACES, 1.0, 5)[1]
    ends = {step.begin + step.tokens - 1 for step in blocks}
    assert {3, 9} <= ends
    whole = [step for step in blocks if step.begin + 5 <= len(TRACES[1].turns)]
    assert {len(step.drafts) for step in whole} == {5}


def test_traffic_is_played_against_no_model_that_lacks_one_of_its_ids() -> None:
    most = max(
        max(*one.prompt, *(max(turn.settled, *turn.q.ids) for turn in one.turns)) for one in TRACES
    )
    assert fits(TRACES, most + 1)
    assert not fits(TRACES, most)
