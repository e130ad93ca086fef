"""Uplink formats: what they weigh, and which of them keep the distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.bench.harness.scoring import Outcome
from uhlm_edge.bench.harness.shadow_verifier import ShadowVerifier
from uhlm_edge.bench.network.channel import published_bytes
from uhlm_edge.bench.strategies.uplinks import (
    FORMATS,
    Uploads,
    cut_bytes,
    draft_bytes,
    uplink_rows,
)
from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.lm.engines.protocol import Logits
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Probs, Sampler

from ...edge.pairs import PLAIN, pair
from ...fakes import DEVICE, FakeEngine
from .test_strategies import CASES


def test_the_published_upload_weighs_92_000_bytes_at_32_000_ids() -> None:
    assert published_bytes(32_000) == 92_000
    assert cut_bytes(32_000, 32) == 32 * 23 // 8


def test_a_distribution_in_each_format() -> None:
    probs = np.array([0.5, 0.25, 0.25, 0.0])
    assert draft_bytes(probs) == [5, 5, len("[0.5,0.25,0.25,0.0]"), 8]
    assert len(draft_bytes(probs)) == len(FORMATS)


def cut_with_tail(q: Probs, k: int) -> Probs:
    """What a verifier takes q (V,) for when it gets the k largest and spreads the rest evenly."""
    kept = np.argsort(-q, kind="stable")[:k]
    seen = np.full(len(q), (1.0 - q[kept].sum()) / max(1, len(q) - k))
    seen[kept] = q[kept]
    probs: Probs = np.maximum(seen, 0.0)
    return probs


def judged_probs(drawn: Probs, seen: Probs, p: Probs) -> Probs:
    """The distribution of a settled token, by enumeration, shape (V,).

    Drafts are drawn from `drawn`; the verifier, which takes them for draws from `seen`, accepts x
    with min(1, p(x) / seen(x)) and else draws from norm(max(0, p - seen)). With drawn = seen this
    is p (arXiv 2211.17192, A.1); otherwise it is not.
    """
    chance = np.minimum(1.0, np.divide(p, seen, out=np.ones_like(p), where=seen > 0.0))
    kept: Probs = drawn * chance
    rest = np.maximum(0.0, p - seen)
    left = rest / rest.sum() if rest.sum() > 0.0 else p
    probs: Probs = kept + (1.0 - kept.sum()) * left
    return probs


def total_variation(a: Probs, b: Probs) -> float:
    """Half of the summed differences: the share of draws that come out otherwise."""
    return 0.5 * float(np.abs(a - b).sum())


def synthetic_pair(n: int = 8192, seed: int = 0) -> tuple[Logits, Logits]:
    """Logits (V,) of a device and an LLM: normal, spread 2.5, differing by a normal of spread 1."""
    random = np.random.default_rng(seed)
    device: Probs = 2.5 * random.standard_normal(n)
    llm = device + random.standard_normal(n)
    return device.astype(np.float32), llm.astype(np.float32)


def ours(logits: Logits, sampler: Sampler, wire_top: int = 64) -> Probs:
    """What the device draws from and what the verifier sees: the same integers."""
    sent = sampler.distribution(Row(logits), wire_top)
    return sent.probs(len(logits))


@pytest.mark.parametrize("n", [256, 8192])
def test_cutting_q_after_the_draw_is_biased_and_before_it_exact(n: int) -> None:
    device, llm = synthetic_pair(n)
    q, p = PLAIN.probs(Row(device)), PLAIN.probs(Row(llm))
    cut = judged_probs(q, cut_with_tail(q, 32), p)
    assert cut.sum() == pytest.approx(1.0)
    assert total_variation(cut, p) > 0.03
    compact = ours(device, PLAIN)
    assert total_variation(judged_probs(compact, compact, p), p) < 1e-15


def test_the_bias_of_a_cut_shrinks_with_what_is_kept() -> None:
    device, llm = synthetic_pair()
    q, p = PLAIN.probs(Row(device)), PLAIN.probs(Row(llm))
    bias = [total_variation(judged_probs(q, cut_with_tail(q, k), p), p) for k in (8, 32, 512, 8192)]
    assert bias == sorted(bias, reverse=True)
    assert bias[-1] < 1e-12


@given(st.integers(0, 1000), st.floats(0.1, 2.0), st.integers(0, 20), st.integers(1, 64))
def test_ours_is_exact_under_every_sampler(
    seed: int, temperature: float, top_k: int, wire_top: int
) -> None:
    device, llm = synthetic_pair(64, seed)
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=1.0)
    q, p = ours(device, sampler, wire_top), sampler.probs(Row(llm))
    assert total_variation(judged_probs(q, q, p), p) < 1e-12


def test_what_was_uploaded_is_weighed_in_all_formats() -> None:
    sampler = Sampler(temperature=1.0, top_k=8, top_p=1.0)
    uploads = Uploads(ShadowVerifier(FakeEngine(DEVICE, 2048), sampler), sampler)
    with pair(sampler=sampler) as both:
        prompt = uploads.reader.prompt(CASES[0].messages)
        loop = both.loop(make_strategy("uhlm", threshold=0.3), prompt, seed=2)
        list(loop.events())
        uploads.watch(CASES[0], loop)
        calls = loop.stats.uploads
    assert len(uploads.sizes) == calls > 0
    outcome = Outcome(1, 20, 1.0, bodies=[50] * calls, requests=[250] * calls)
    rows = {row["uplink"]: row for row in uplink_rows(uploads, [outcome])}
    assert list(rows) == [*FORMATS, "ours"]
    assert rows["published"]["per_upload_median"] == published_bytes(257)
    assert rows["published"]["wire_per_upload_p95"] == published_bytes(257) + 200
    assert rows["float16"]["per_token"] == 514 * calls / 20
    assert rows["ours"]["per_upload_median"] == 50
    assert rows["ours"]["wire_per_token"] == 250 * calls / 20
    assert rows["JSON"]["per_upload_median"] > 257 * 4
