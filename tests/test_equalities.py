"""What must be equal by the method, end to end, on the demo pair in 32-bit floats.

On quantised models other batch widths run other kernels, whose logits differ; here they agree to
about 1e-4, so strategies that must write the same ids do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import uhlm_edge
from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.service import load_service
from uhlm_edge.common.keys import Keys
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.decode.loop import ReplyLoop
from uhlm_edge.edge.link.in_process import LocalLink
from uhlm_edge.edge.link.session import Prompt, Session
from uhlm_edge.edge.policy.strategy import Strategy, make_strategy
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.sampling import Sampler

from .requantise import requantised

pytestmark = pytest.mark.slow

EXACT = EngineOptions(
    n_threads=1,
    n_threads_batch=1,
    flash_attention="off",
    cache_type_k="f32",
    cache_type_v="f32",
)
QUESTIONS = [
    "What is the capital of Peru?",
    "I'd like to book a table for two in Albany tonight.",
    "Spell the word farmer.",
    "Hugo buys 26 candles at 2 dollars each and 12 pencils at 8 dollars each. "
    "How much does Hugo pay?",
]
HLM = make_strategy("hlm")


@dataclass
class Pair:
    """Both models, and a session between them: a prompt that is said again is not read again."""

    cache: TokenCache
    session: Session

    def ids(
        self,
        strategy: Strategy,
        question: str,
        seed: int,
        temperature: float,
        pipelined: bool = False,
        n: int = 30,
    ) -> list[int]:
        text = f"<|begin|><|user|>{question}<|end|><|assistant|>"
        prompt = self.cache.engine.vocab.tokenize(text, special=True)
        device = Device(self.cache, Sampler(temperature=temperature, top_k=0, top_p=1.0))
        loop = ReplyLoop(device, self.session, strategy, Prompt(prompt, None, seed, n), pipelined)
        for _ in loop.events():
            pass
        assert loop.stats.offline_reason is None
        return [token.id for token in loop.tokens]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("floats")
    service = load_service(
        requantised("demo-llm", "ALL_F32", folder),
        VerifierOptions(engine=EXACT, sessions=4),
        Keys(),
    )
    engine = LlamaEngine(requantised("demo-slm", "ALL_F32", folder), EXACT)
    session = Session(LocalLink(service), engine.vocab, "device")
    yield Pair(TokenCache(engine), session)
    session.close()
    engine.close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_hlm_spec_and_cloud_write_the_same_ids(pair: Pair, question: str) -> None:
    expected = pair.ids(make_strategy("cloud"), question, 1, 0.0)
    assert pair.ids(HLM, question, 1, 0.0) == expected
    for limit in (1, 3, 8):
        spec = make_strategy("spec", draft_limit=limit)
        assert pair.ids(spec, question, 1, 0.0) == expected
        assert pair.ids(spec, question, 1, 0.0, pipelined=True) == expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("question", QUESTIONS[:3])
def test_sampled_hlm_and_spec_write_the_same_ids_whatever_the_blocks(
    pair: Pair, question: str, seed: int
) -> None:
    expected = pair.ids(HLM, question, seed, 1.0)
    eager = make_strategy("uhlm", threshold=-1.0)
    assert pair.ids(eager, question, seed, 1.0) == expected
    assert pair.ids(eager, question, seed, 1.0, pipelined=True) == expected
    for limit in (1, 4):
        spec = make_strategy("spec", draft_limit=limit)
        assert pair.ids(spec, question, seed, 1.0) == expected
        assert pair.ids(spec, question, seed, 1.0, pipelined=True) == expected


def test_pipelined_uhlm_writes_the_ids_of_unpipelined_uhlm(pair: Pair) -> None:
    uhlm = make_strategy("uhlm", threshold=0.1)
    for question in QUESTIONS:
        expected = pair.ids(uhlm, question, 5, 1.0)
        assert pair.ids(uhlm, question, 5, 1.0, pipelined=True) == expected


def test_spec_follows_the_distribution_of_cloud(pair: Pair) -> None:
    """Two-sample chi-square over the first three ids of many replies, at fixed seeds."""
    n, question = 150, "I need a restaurant."
    spec, cloud = make_strategy("spec", draft_limit=3), make_strategy("cloud")
    counts: dict[tuple[int, ...], list[int]] = {}
    for seed in range(n):
        for side, strategy in enumerate((spec, cloud)):
            # Other seeds for the other side: the same ones would correlate the samples.
            ids = tuple(pair.ids(strategy, question, seed + side * n, 1.0, n=3))
            counts.setdefault(ids, [0, 0])[side] += 1
    common = [pairs for pairs in counts.values() if sum(pairs) >= 10]
    rare = [sum(pairs[side] for pairs in counts.values() if sum(pairs) < 10) for side in (0, 1)]
    table = np.array([*common, rare], dtype=float)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi_square = float(((table - expected) ** 2 / expected).sum())
    freedom = len(table) - 1
    assert freedom >= 5
    # Five standard deviations above the mean of chi-square: about 1e-5 for a true equality.
    assert chi_square < freedom + 5.0 * (2.0 * freedom) ** 0.5


@pytest.mark.parametrize("part", range(5))
def test_coupled_draws_write_one_text_by_any_strategy_at_temperature_one(
    pair: Pair, part: int
) -> None:
    """50 prompts in all; the LLM alone decides, whatever is drafted and however it is sent."""
    folder = Path(uhlm_edge.__file__).parent / "common" / "data"
    rows = [
        json.loads(line)
        for name in ("tasks", "dialogues")
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:25]
    ]
    prompts = [next(m["content"] for m in row["messages"] if m["role"] == "user") for row in rows]
    cloud, hlm = (replace(make_strategy(name), coupling="gumbel") for name in ("cloud", "hlm"))
    one, four, auto = (
        replace(make_strategy("spec", draft_limit=limit, threshold=0.3), coupling="gumbel")
        for limit in (1, 4, None)
    )
    for seed in range(10 * part, 10 * part + 10):
        prompt = prompts[seed]
        expected = pair.ids(cloud, prompt, seed, 1.0, n=8)
        for strategy in (hlm, one, four, auto):
            assert pair.ids(strategy, prompt, seed, 1.0, n=8) == expected
        assert pair.ids(auto, prompt, seed, 1.0, pipelined=True, n=8) == expected
