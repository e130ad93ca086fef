"""Answers as bytes: whatever a verifier sends, only what fits the question gets further."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Distribution, Sampler
from uhlm_edge.wire import codec
from uhlm_edge.wire.messages import Conflict, Malformed, Reply, Timing

from .wire_cases import IDS, JSON, V, damaged, distributions, one_token

ASKED = replace(one_token(), bonus=3)
SESSION = "0123456789abcdef" * 2
BINDING = ASKED.binding(SESSION)


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    accepted = draw(st.integers(0, 1))
    tokens = draw(st.lists(IDS, max_size=3)) if accepted else [draw(IDS)]
    betas = draw(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5))
    held = draw(st.integers(0, 504 + accepted + len(tokens)))
    proposal, qs = None, draw(st.lists(st.binary(max_size=9), max_size=2))
    if accepted and not tokens and draw(st.booleans()):
        q = draw(distributions())
        proposal, qs = int(q.ids[-1]), [codec.pack_distribution(q)]
    us = Timing(*draw(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9))))
    return Reply(ASKED.id, ASKED.start, accepted, tokens, betas, held, us, proposal, qs, BINDING)


@given(replies())
def test_a_reply_comes_out_as_it_went_in(reply: Reply) -> None:
    assert Reply.unpack(reply.pack(), ASKED, V, SESSION) == reply
    names = reply.to_json()
    assert json.loads(json.dumps(names)) == names


SURE_OF_7 = codec.pack_distribution(Distribution(np.array([7]), np.array([TOTAL])))
GOOD = Reply(ASKED.id, ASKED.start, 1, [4], [0.5] * 5, 506, distributions=[], binding=BINDING)


@pytest.mark.parametrize(
    "change",
    [
        {"id": GOOD.id + 1},
        {"start": GOOD.start - 1},
        {"binding": ASKED.binding("f" * 32)},
        {"binding": replace(ASKED, prefix=bytes(8)).binding(SESSION)},
        {"binding": replace(ASKED, tokens=[*ASKED.tokens[1:], 5]).binding(SESSION)},
        {"binding": b""},
        {"binding": 7},
        {"accepted": 2},
        {"accepted": 0, "tokens": []},
        {"accepted": 0, "tokens": [1, 2]},
        {"tokens": [1, 2, 3, 4]},
        {"tokens": [V]},
        {"betas": [0.5] * 4},
        {"betas": [0.5] * 6},
        {"betas": [0.5] * 4 + [1.5]},
        {"betas": [0.5] * 4 + [float("nan")]},
        {"betas": [0.5] * 4 + [-0.5]},
        {"held": 507},
        {"proposal": 7},
        {"proposal": 7, "tokens": []},
        {"proposal": 7, "tokens": [], "distributions": [b""]},
        {"proposal": 8, "tokens": [], "distributions": [SURE_OF_7]},
        {"proposal": 7, "tokens": [4], "distributions": [SURE_OF_7]},
        {"proposal": 7, "tokens": [4], "accepted": 0, "distributions": [SURE_OF_7]},
        {"us": (1,)},
        {"us": (1, -1)},
    ],
    ids=str,
)
def test_a_reply_that_does_not_fit_the_question_is_malformed(change: dict[str, Any]) -> None:
    assert Reply.unpack(GOOD.pack(), ASKED, V, SESSION) == GOOD
    with pytest.raises(Malformed):
        Reply.unpack(replace(GOOD, **change).pack(), ASKED, V, SESSION)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_replies_are_refused_or_fit_the_question(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        try:
            reply = Reply.unpack(damaged(GOOD.pack(), rng), ASKED, V, SESSION)
        except Malformed:
            continue
        assert (reply.id, reply.start) == (GOOD.id, GOOD.start)
        assert all(0 <= token < V for token in reply.tokens)
        assert len(reply.tokens) <= 3


@given(st.integers(0, 2**40), st.binary(max_size=8))
def test_a_conflict_comes_out_as_it_went_in(held: int, prefix: bytes) -> None:
    assert Conflict.from_json(Conflict(held, prefix).to_json()) == Conflict(held, prefix)


@given(JSON)
def test_any_json_is_a_conflict_or_malformed(value: Any) -> None:
    for candidate in (
        value,
        {"held": value, "held_prefix": "00"},
        {"held": 1, "held_prefix": value},
    ):
        try:
            conflict = Conflict.from_json(candidate)
        except Malformed:
            continue
        assert type(conflict.held) is int


# Contrast


def test_a_contrast_comes_out_as_it_went_in() -> None:
    p = Sampler(temperature=1.0, top_k=0, top_p=1.0).probs(
        Row(np.random.default_rng(1).standard_normal(500).astype(np.float32) * 2)
    )
    ids, log_p = codec.unpack_contrast(codec.pack_contrast(p), 500)
    assert ids.tolist() == np.flatnonzero(p >= 0.1 * p.max()).tolist()
    assert np.exp(log_p) == pytest.approx(p[ids], rel=1e-6)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_contrast_or_malformed(raw: bytes) -> None:
    try:
        ids, log_p = codec.unpack_contrast(raw, V)
    except Malformed:
        return
    assert 0 <= ids.min() <= ids.max() < V
    assert len(ids) == len(log_p)
