"""Requests, distributions and damage for the tests of the wire."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import strategies as st

from uhlm_edge.lm.sampling import Distribution
from uhlm_edge.wire.messages import Limits, Request, prefix_hash

V = 32_000
LIMITS = Limits()
IDS = st.integers(0, V - 1)


@st.composite
def distributions(draw: st.DrawFn) -> Distribution:
    ids = sorted(draw(st.sets(IDS, min_size=1, max_size=20)))
    mass = draw(st.lists(st.floats(0.01, 1), min_size=len(ids), max_size=len(ids)))
    return Distribution.rounded(np.array(ids), np.array(mass))


def one_token(n_ids: int = 5) -> Request:
    """A usual upload: one uncertain draft, four skipped tokens before it."""
    rng = np.random.default_rng(n_ids)
    ids = np.sort(rng.choice(V, n_ids, replace=False))
    q = Distribution.rounded(ids, rng.random(n_ids))
    tokens = [*rng.integers(0, V, 4).tolist(), int(q.ids[0])]
    return Request(300, 500, prefix_hash(range(500)), tokens, [60_000] * 4, [q])


def damaged(raw: bytes, rng: random.Random) -> bytes:
    body = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(4):
            case 0:
                body[at:at] = rng.randbytes(rng.randint(1, 4))
            case 1:
                del body[at : at + rng.randint(1, 4)]
            case 2:
                body[at : at + 1] = bytes([rng.choice([0, 0x7F, 0x80, 0xC0, 0xDD, 0xFF])])
            case _:
                body[at : at + 1] = rng.randbytes(1)
        body = body or bytearray(b"\xc0")
    return bytes(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
