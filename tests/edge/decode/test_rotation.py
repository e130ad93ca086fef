"""Several models on one device that take turns: what the text follows, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.decode.rotation import Partners, RotationLoop
from uhlm_edge.edge.events import Token
from uhlm_edge.edge.link.session import Prompt
from uhlm_edge.edge.policy.strategy import Strategy, make_strategy, shares_of
from uhlm_edge.lm.engines.protocol import Logits
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import Contrastive, Target, Weighted

from ...exact_texts import NextProbs, assert_follows
from ...fakes import FakeEngine, FakeModel, FakeVocabulary, Remembering
from ..pairs import GREEDY, PLAIN

VOCAB = FakeVocabulary(3)


MODELS = [Remembering(f"fake-{i}", i, VOCAB, own=1.0, end=-1.0) for i in (31, 32, 33, 34)]
PROMPT = [0]
N = 800
LONG = 5  # tokens, so that each of four models has its turn


class Strict(FakeEngine):
    """Reads nothing beyond an end of text, where no proposal is of use."""

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        assert len(self.vocab) - 1 not in [*self.ids, *tokens]
        return super().eval(tokens, rows)


class Models:
    """The first n models on one device."""

    def __init__(
        self, n: int, sampler: Sampler = PLAIN, models: Sequence[FakeModel] = MODELS
    ) -> None:
        self.engines = [Strict(model) for model in models[:n]]
        device, *others = (TokenCache(engine) for engine in self.engines)
        self.device, self.partners = Device(device, sampler), Partners(others)

    def loop(self, strategy: Strategy, seed: int = 0, n: int = 2) -> RotationLoop:
        prompt = Prompt(PROMPT, None, seed, n)
        return RotationLoop(self.device, self.partners, strategy, prompt)

    def tokens(self, strategy: Strategy, seed: int = 0, n: int = 2) -> list[Token]:
        return [e for e in self.loop(strategy, seed, n).events() if isinstance(e, Token)]

    def ids(self, strategy: Strategy, seed: int = 0, n: int = 2) -> list[int]:
        return [token.id for token in self.tokens(strategy, seed, n)]


def ensemble(
    shares: Sequence[float] = (0.5,), limit: int | None = None, target: Target | None = None
) -> Strategy:
    made = make_strategy("ensemble", target=target or Weighted(weight=shares[0]), draft_limit=limit)
    return replace(made, shares=tuple(shares))


def mixed(
    weights: Sequence[float], sampler: Sampler = PLAIN, models: Sequence[FakeModel] = MODELS
) -> NextProbs:
    """The mixture of the models, each rounded."""

    def exact(ids: list[int]) -> NDArray[np.float64]:
        used = models[: len(weights)]
        parts = [
            sampler.distribution(Row(model.row(ids))).probs(len(model.vocab)) for model in used
        ]
        return np.array(weights) @ np.array(parts)

    return exact


def contrasted(mu: float, alpha: float) -> NextProbs:
    def exact(ids: list[int]) -> NDArray[np.float64]:
        q, p = (PLAIN.probs(Row(model.row(ids))) for model in MODELS[:2])
        r: NDArray[np.float64] = np.where(p >= alpha * p.max(), p * q**-mu, 0.0)
        r /= r.sum()
        return r

    return exact


MIXTURES = pytest.mark.parametrize(
    "shares", [[0.4, 0.6], [0.2, 0.3, 0.5], [0.1, 0.2, 0.3, 0.4]], ids=["two", "three", "four"]
)


@MIXTURES
@pytest.mark.parametrize("limit", [1, 2])
def test_texts_follow_the_mixture_whoever_proposes(shares: list[float], limit: int) -> None:
    models = Models(len(shares))
    texts = [models.ids(ensemble(shares, limit), seed, LONG) for seed in range(N)]
    assert_follows(texts, mixed(shares), PROMPT, LONG)


@MIXTURES
def test_every_model_proposes_and_is_kept_or_replaced(shares: list[float]) -> None:
    """Of what each proposes some stands and some does not, so the distribution above is of both."""
    models = Models(len(shares))
    fates = Counter[tuple[int, bool]]()
    judged = models.partners.judged

    def watched(proposer: int, beta: float) -> None:
        fates[proposer, beta > 0.1] += 1
        judged(proposer, beta)

    models.partners.judged = watched  # type: ignore[method-assign]
    for seed in range(60):
        models.ids(ensemble(shares, 1), seed, LONG)
    assert set(fates) == {(model, doubt) for model in range(len(shares)) for doubt in (False, True)}


@pytest.mark.parametrize(("mu", "alpha", "limit"), [(0.5, 0.1, 1), (1.0, 0.0, 3), (0.5, 0.1, None)])
def test_a_contrast_alternates_too(mu: float, alpha: float, limit: int | None) -> None:
    models = Models(2)
    strategy = ensemble(limit=limit, target=Contrastive(mu=mu, alpha=alpha))
    texts = [models.ids(strategy, seed, LONG) for seed in range(N)]
    assert_follows(texts, contrasted(mu, alpha), PROMPT, LONG)
    tokens = [token for seed in range(60) for token in models.tokens(strategy, seed, LONG)]
    if limit == 1:
        assert any(token.source == "cloud" and token.accepted for token in tokens)
        assert any(token.source == "edge" and token.accepted is False for token in tokens)


def test_a_contrast_of_three_is_refused() -> None:
    with pytest.raises(ConfigError, match="a contrast is of two models: give one --partner"):
        Models(3).loop(ensemble(target=Contrastive(mu=0.5)))


WIDE = FakeVocabulary(12)
WORDY = [FakeModel(f"wordy-{i}", i, WIDE, own=1.0, end=-9.0) for i in (1, 2, 3)]


@pytest.mark.parametrize("limit", [1, 3, None])
def test_at_temperature_0_each_token_is_the_argmax_of_the_mixture(limit: int | None) -> None:
    shares = [0.3, 0.3, 0.4]
    exact, expected = mixed(shares, models=WORDY), list[int]()
    while len(expected) < 20:
        expected.append(int(exact(PROMPT + expected).argmax()))
    models = Models(3, GREEDY, WORDY)
    for seed in (0, 1):
        assert models.ids(ensemble(shares, limit), seed, 20) == expected


def test_one_draft_each_costs_at_most_a_pass_of_every_model_a_token() -> None:
    """Where all agree one pass settles a token; where none does, the standard ensemble's count."""
    for own, most in ((0.0, 1.2), (3.0, 3.0)):
        like = [FakeModel(f"m-{i}", i, WIDE, own=own, end=-9.0) for i in (1, 2, 3)]
        models = Models(3, PLAIN, like)
        n = len(models.ids(ensemble([0.3, 0.3, 0.4], 1), 1, 40))
        passes = sum(len(engine.widths) for engine in models.engines)
        assert n == 40
        assert passes / n <= most


def test_no_id_is_read_twice_where_all_stands() -> None:
    like = [FakeModel(f"m-{i}", i, WIDE, own=0.0, end=-9.0) for i in (1, 2, 3)]
    models = Models(3, PLAIN, like)
    models.ids(ensemble([0.3, 0.3, 0.4], 1), 1, 40)
    for engine in models.engines:
        assert sum(engine.widths) <= len(PROMPT) + 40


def test_the_next_reply_finds_the_models_in_step() -> None:
    models, fresh = Models(3, PLAIN, WORDY), Models(3, PLAIN, WORDY)
    strategy = ensemble([0.3, 0.3, 0.4], 2)
    loop = models.loop(strategy, 5, 20)
    events = loop.events()
    for _ in range(7):
        next(events)
    events.close()
    assert len(loop.tokens) >= 7
    assert all(
        engine.ids == PROMPT + [t.id for t in loop.tokens][: len(engine.ids) - 1]
        for engine in models.engines
    )
    assert models.ids(strategy, 6, 20) == fresh.ids(strategy, 6, 20)


def test_a_reply_ends_at_its_limit_at_a_full_context_and_at_the_end_of_text() -> None:
    models = Models(3, PLAIN, WORDY)
    for n in range(4):
        assert len(models.ids(ensemble(limit=2), 3, n)) == n
    small = Models(2, PLAIN, WORDY)
    small.engines[1].n_ctx = 4
    assert len(small.ids(ensemble(limit=2), 3, 20)) == 3
    ending = Models(3)
    for seed in range(30):
        reply = ending.ids(ensemble(limit=3), seed, 20)
        assert 2 not in reply[:-1]
        assert len(reply) == 20 or reply[-1] == 2


@pytest.mark.parametrize(
    ("given", "n", "shares"),
    [((0.5,), 2, [0.5, 0.5]), ((0.5,), 3, [0.5, 0.25, 0.25]), ((0.2, 0.3), 3, [0.2, 0.3, 0.5]),
     ((0.2, 0.8), 2, [0.2, 0.8]), ((), 4, [0.25] * 4)],
)  # fmt: skip
def test_shares_that_are_not_given_are_equal(
    given: tuple[float, ...], n: int, shares: list[float]
) -> None:
    assert shares_of(given, n) == pytest.approx(shares)


@pytest.mark.parametrize("given", [(0.5, 0.6), (0.2, 0.2), (0.2, 0.2, 0.6)])
def test_shares_that_are_none_are_refused(given: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        shares_of(given, 2)
