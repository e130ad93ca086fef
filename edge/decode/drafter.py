"""The device's side of a token: one pass of its model, a draw, and what policies ask about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...lm.draws import Draws, Purpose
from ...lm.engines.protocol import Matching
from ...lm.ids import Slide
from ...lm.row import Row
from ...lm.sampling import Distribution, Probs, Sampler
from ...lm.targets import Contrastive, sampler_of_parts
from ...lm.uncertainty import Estimator, sampled
from ...lm.verification import draft_token
from ...lm.vocabulary import Vocabulary
from ...wire.messages import Info
from ..cache import TokenCache
from ..events import Draft
from ..link.latency import LatencyModel
from ..policy.reward import RewardHead
from ..policy.strategy import Strategy
from ..stats import Stats


@dataclass(frozen=True)
class Device:
    """What stays the same from reply to reply on the device.

    Attributes:
        cache: ids and the engine that follows them.
        sampler: how q is made from logits; the verifier applies the same.
        wire_top: most ids in q.
        k: perturbed samples per draft.
        estimator: of u.
        measure: estimate u even if the policy does not ask for it.
        backend: which backend took the layers, as it says itself.
        head: what expects acceptance, for policies that ask it.
        grammar: begins a text that must match it. q is then the sampler's distribution of the row
            in which every other id is masked: the masked and renormalised q, wherever top-k and
            top-p leave all. Uncertainty and logarithms are those of this q, which was drawn from.
        slide: who keeps what was read when the oldest turns of a long conversation go.
    """

    cache: TokenCache
    sampler: Sampler
    wire_top: int = 64
    k: int = 20
    estimator: Estimator = sampled
    measure: bool = False
    backend: str = ""
    head: RewardHead | None = None
    grammar: Callable[[], Matching] | None = None
    slide: Slide = "none"

    @property
    def vocab(self) -> Vocabulary:
        return self.cache.engine.vocab


class Drafter:
    """Makes the drafts of one reply.

    Args:
        device: model, sampler, estimator, head.
        strategy: its policy says what is measured, its target and coupling how drafts are made.
        seed: of the reply.
        latency: is told what a draft takes.
        stats: gets the times.
    """

    def __init__(
        self,
        device: Device,
        strategy: Strategy,
        seed: int,
        latency: LatencyModel,
        stats: Stats,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.target = strategy.target
        self.seed = seed
        self.greedy = device.sampler.greedy
        self.n_vocab = len(device.vocab)
        self._wire_top = device.wire_top
        self._device, self._cache = device, device.cache
        self._sampler = sampler_of_parts(device.sampler, strategy.target)
        self._coupling = strategy.coupling
        self._draws = Draws(seed, device.k)
        self._measures = device.measure or "uncertainty" in strategy.policy.needs
        self._latency, self._stats, self._clock = latency, stats, clock
        self._matching = device.grammar() if device.grammar is not None else None
        self._ids: list[int] = []  # drafted, by their position in the reply
        if device.head is not None:
            device.head.reset()

    def draft(self, index: int) -> Draft:
        """Draw the token at `index` of the reply from q.

        Raises:
            ContextFull, EngineError: the model cannot go on, or no token matches the grammar.
        """
        device, begun = self._device, self._read_prompt()
        row = self._row(index)
        q = self._sampler.distribution(row, self._wire_top)
        chance = self._draws.one(Purpose.DRAFT, index)
        token = draft_token(q, chance, self.seed, index, self._coupling, self.greedy)
        self._ids[index:] = [token]
        u = reward = log_q = None
        if self._measures:
            thetas, perturbs = self._draws.thetas(index), self._draws.perturbs(index)
            u = device.estimator(row, token, thetas, perturbs)
            if device.head is not None:
                reward = device.head.score(index, row, token, u)
        if isinstance(self.target, Contrastive):
            log_q = log_probs(row, self._sampler)
        took = self._clock() - begun
        self._stats.drafts += 1
        self._stats.device_time += took
        self._latency.drafted(took)
        return Draft(index, token, q, u, reward, log_q)

    def _row(self, index: int) -> Row:
        logits = self._cache.row()
        if self._matching is None:
            return Row(logits)
        may = self._matching(self._ids[:index])
        return Row(np.where(may, logits, np.float32(-np.inf)))

    def before(self, proposal: int) -> tuple[Distribution, Probs | None]:
        """q after the last id, and its logarithms if the target wants them.

        What the LLM's proposal is judged by; the same pass reads it, for it mostly stands.
        """
        begun = self._clock()
        row = Row(self._cache.row_before(proposal))
        q = self._sampler.distribution(row, self._wire_top)
        log_q = log_probs(row, self._sampler) if isinstance(self.target, Contrastive) else None
        self._stats.device_time += self._clock() - begun
        return q, log_q

    def judged(self, betas: list[float]) -> None:
        """Drafts were judged here: what that says about the next ones."""
        self._latency.judged(betas)

    def limit_q(self, info: Info | None) -> None:
        """The verifier may take fewer ids in q than the device would send."""
        if info is not None:
            self._wire_top = min(self._device.wire_top, info.limits.wire_top)

    @property
    def draws(self) -> Draws:
        """The random numbers of the reply."""
        return self._draws

    def _read_prompt(self) -> float:
        """Evaluate a prompt apart, so that its time is not a token's; return when that was done."""
        begun = self._clock()
        if self._cache.unread > 1:
            self._cache.read_all_but_last()
            done = self._clock()
            self._stats.prefill_time += done - begun
            return done
        return begun


def log_probs(row: Row, sampler: Sampler) -> Probs:
    """Logarithms of the device's whole q at the sampler's temperature, above 0; shape (V,)."""
    y = np.subtract(row.logits, row.peak, dtype=np.float64)
    y /= sampler.temperature
    log_q: Probs = y - np.log(np.exp(y).sum())
    return log_q
