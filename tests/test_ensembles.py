"""Three and four real models on one device: what is settled follows their mixture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from uhlm_edge.cli import app
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.decode.rotation import Partners, RotationLoop
from uhlm_edge.edge.link.session import Prompt
from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.models import shipped

from .requantise import requantised

ONE_THREAD = EngineOptions(n_threads=1, n_threads_batch=1, n_ctx=512)
AT_ONE = Sampler(temperature=1.0, top_k=0, top_p=1.0)
QUESTIONS = ["I need a restaurant.", "Tell me about trains to Ely.", "Hello there."]
BINS = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    slm, llm = (shipped.path_of(name) for name in ("demo-slm", "demo-llm"))
    others = (("demo-llm", "MOSTLY_Q8_0"), ("demo-slm", "MOSTLY_F16"))
    return [slm, llm, *(requantised(*other, folder) for other in others)]


class Reader:
    """The mixture of models of its own, read one id at a time: no loop, no proposals."""

    def __init__(self, engines: Sequence[LlamaEngine], shares: Sequence[float]) -> None:
        self._caches, self._shares = [TokenCache(engine) for engine in engines], shares

    def place(self, ids: list[int], token: int, u: float) -> float:
        """Where a token lies in the distribution after `ids`: uniform if it was drawn from it."""
        r = np.zeros(len(self._caches[0].engine.vocab))
        for cache, share in zip(self._caches, self._shares, strict=True):
            cache.restart(ids)
            r += share * AT_ONE.distribution(Row(cache.row()), 64).probs(len(r))
        return float(r[:token].sum() + u * r[token])


@pytest.mark.slow
@pytest.mark.parametrize("shares", [[0.3, 0.4, 0.3], [0.25, 0.25, 0.25, 0.25]], ids=len)
def test_whoever_proposes_the_token_follows_the_mixture(
    files: list[Path], shares: list[float]
) -> None:
    used = files[: len(shares)]
    loops, readers = ([LlamaEngine(file, ONE_THREAD, 16) for file in used] for _ in range(2))
    try:
        places = _places(loops, Reader(readers, shares), shares)
    finally:
        for engine in [*loops, *readers]:
            engine.close()
    assert set(places) == set(range(len(shares)))
    for found in places.values():
        counts, _ = np.histogram(found, bins=BINS, range=(0.0, 1.0))
        mean = len(found) / BINS
        assert mean >= 5.0
        assert ((counts - mean) ** 2 / mean).sum() < 24.3  # 7 degrees of freedom, once in 1,000


def _places(
    engines: Sequence[LlamaEngine], reader: Reader, shares: Sequence[float]
) -> dict[int, list[float]]:
    """The place of each settled token, by the model that had proposed there."""
    device, partners = (
        Device(TokenCache(engines[0]), AT_ONE),
        Partners([TokenCache(engine) for engine in engines[1:]]),
    )
    proposers: list[int] = []
    judged = partners.judged

    def watched(proposer: int, beta: float) -> None:
        proposers.append(proposer)
        judged(proposer, beta)

    partners.judged = watched  # type: ignore[method-assign]
    strategy = replace(make_strategy("ensemble", draft_limit=1), shares=tuple(shares))
    places: dict[int, list[float]] = {}
    uniforms = np.random.default_rng(1)
    for seed in range(24):
        text = f"<|begin|><|user|>{QUESTIONS[seed % 3]}<|end|><|assistant|>"
        prompt = device.vocab.tokenize(text, special=True)
        proposers.clear()
        loop = RotationLoop(device, partners, strategy, Prompt(prompt, None, seed, 12))
        for _ in loop.events():
            pass
        ids = [token.id for token in loop.tokens]
        for i, (token, proposer) in enumerate(zip(ids, proposers, strict=True)):
            place = reader.place(prompt + ids[:i], token, uniforms.random())
            places.setdefault(proposer, []).append(place)
    return places


RUN = ["run", "--strategy", "ensemble", "--seed", "1", "--max-tokens", "12", "Hello there."]


@pytest.mark.slow
def test_the_command_mixes_as_many_partners_as_it_is_given() -> None:
    partners = [
        "--partner",
        "demo-llm",
        "--partner",
        "demo-slm",
        "--weight",
        ".2",
        "--weight",
        ".5",
    ]
    result = CliRunner().invoke(app, [*RUN, *partners, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    *tokens, done = [json.loads(line) for line in result.stdout.splitlines() if line[0] == "{"]
    assert {token["source"] for token in tokens if token["event"] == "token"} <= {"edge", "cloud"}
    assert done["stats"]["transmission_rate"] == 1.0
    assert (done["stats"]["calls"], done["stats"]["offline_reason"]) == (0, None)
    assert result.stderr.count("verifier") == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--weight", ".5", "--weight", ".3", "--weight", ".2"], "3 weights for 2 models"),
        (["--weight", ".5", "--weight", ".6"], "the weights sum to 1.1, not to 1"),
        (["--strategy", "hlm", "--partner", "demo-slm"], "several partners make an ensemble"),
    ],
)
def test_what_is_no_ensemble_is_refused_in_one_line(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, [*RUN, "--partner", "demo-llm", *arguments])
    assert result.exit_code != 0
    assert reason in str(result.exception or result.stderr)
