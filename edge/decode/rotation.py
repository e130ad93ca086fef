"""One reply by an ensemble of models on one device, which take turns as proposers.

Any number of models of one vocabulary (arXiv 2502.01662, section 3). Each turn is one pass: the
next model scores all that is pending and may propose what follows. A token is settled once every
model has scored it; whoever proposed it, it follows the ensemble's r exactly.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...common.errors import ConfigError
from ...lm.chat import ChatEncoder
from ...lm.draws import Purpose, uniform
from ...lm.engines.protocol import Logits
from ...lm.row import Row
from ...lm.sampling import Distribution, Probs, one_hot
from ...lm.targets import Contrastive, Target, sampler_of_parts
from ...lm.verification import contrast, contrast_mask, draft_token, judge, mixture
from ..cache import TokenCache
from ..events import Draft, Event, Outcome, Source, Token
from ..link.latency import PassCost
from ..link.session import Prompt
from ..policy.strategy import Strategy, shares_of
from ..stats import Stats
from ..transcript import Transcript
from .drafter import Device, log_probs
from .turns import LOCKSTEP, Plan, best_plan

_KEEP = 0.98  # weight of the past in the acceptance
_PLAN_FIRST, _PLAN_FOR = 8, 64  # tokens, after which the plan is made anew


class _Part(NamedTuple):
    """What a model makes of a position: what it would draw from, and what a contrast needs."""

    q: Distribution
    whole: Probs | None


class _Pending(NamedTuple):
    """A proposed token, who proposed it, and what the models that scored it make of it."""

    draft: Draft
    proposer: int
    parts: dict[int, _Part]


@dataclass
class Partners:
    """The models beside the device's, and what was measured of all; kept from reply to reply.

    Args:
        caches: of the partners; each has read what its engine holds.

    Attributes:
        costs: of the passes, the device's model first.
        acceptance: how often what each proposes stands.
    """

    caches: Sequence[TokenCache]
    costs: list[PassCost] = field(init=False)
    acceptance: list[float] = field(init=False)
    _plan: Plan = LOCKSTEP
    _due: int = _PLAN_FIRST

    def __post_init__(self) -> None:
        n = len(self.caches) + 1
        self.costs = [PassCost() for _ in range(n)]
        self.acceptance = [0.9] * n
        self._chats = [ChatEncoder(cache.engine.vocab) for cache in self.caches]

    def restart(self, prompt: Prompt) -> None:
        """Begin with another conversation, as each model's own template renders it."""
        for cache, chat in zip(self.caches, self._chats, strict=True):
            plain = prompt.messages is None
            cache.restart(prompt.ids if plain else chat.encode(prompt.messages or ()))

    def plan(self, limit: int | None) -> Plan:
        """What is fastest by what is known; with a limit, so many drafts and proposals."""
        if limit is not None:
            return Plan(limit, True)
        if self._due <= 0:
            self._due = _PLAN_FOR
            self._plan = best_plan(self.acceptance, [cost.fit for cost in self.costs])
        return self._plan

    def judged(self, proposer: int, beta: float) -> None:
        """A proposal was rejected with this probability."""
        self._due -= 1
        self.acceptance[proposer] = _KEEP * self.acceptance[proposer] + (1.0 - _KEEP) * (1.0 - beta)

    def close(self) -> None:
        """Free the models."""
        for cache in self.caches:
            cache.engine.close()


class RotationLoop:
    """One reply. Iterate `events()`; what it yields is committed and never taken back.

    Args:
        device: the first model.
        partners: the others.
        strategy: its target, shares and draft limit.
        prompt: what to reply to.

    Raises:
        ConfigError: a contrast of more than two models.
    """

    def __init__(
        self, device: Device, partners: Partners, strategy: Strategy, prompt: Prompt
    ) -> None:
        self._target: Target = strategy.target
        self._shares = shares_of(strategy.shares, len(partners.caches) + 1)
        if isinstance(self._target, Contrastive) and len(partners.caches) > 1:
            raise ConfigError("a contrast is of two models: give one --partner")
        self.stats = Stats(strategy.name)
        self.text = Transcript(device.cache, prompt.ids, prompt.max_tokens, time.perf_counter)
        self.tokens = self.text.tokens
        partners.restart(prompt)
        self._caches = [device.cache, *partners.caches]
        self._origins = [len(cache) for cache in self._caches]
        self.text.limit = min(self.text.limit, *(cache.room for cache in self._caches))
        self.text.ended = self.text.limit <= 0
        self.text.end_ids = self.text.end_ids.union(
            *(cache.engine.vocab.end_ids for cache in partners.caches)
        )
        self._sampler = sampler_of_parts(device.sampler, self._target)
        self._greedy, self._wire_top = device.sampler.greedy, device.wire_top
        self._n_vocab, self._seed = len(device.vocab), prompt.seed
        self._partners, self._limit = partners, strategy.draft_limit
        self._pending: list[_Pending] = []
        self._next = 0  # whose turn it is
        self._plan = partners.plan(self._limit)

    def events(self) -> Generator[Event, None, None]:
        """Run to the end of the reply. Closing the iterator discards what is not committed."""
        try:
            for model, cache in enumerate(self._caches):
                if (n := cache.unread - 1) > 0:
                    with self._pass(model, n):
                        cache.read_all_but_last()
            self.stats.prefill_time, self.stats.device_time = self.stats.device_time, 0.0
            while not self.text.ended:
                for token in self._take_turn(self._next):
                    self.stats.add(token)
                    yield token
        finally:
            self._drop_pending()
            self.stats.elapsed = self.text.elapsed

    def _take_turn(self, model: int) -> Iterator[Token]:
        """Score what is pending, settle what all have scored, propose what may follow."""
        if not self._pending:
            self._plan = self._partners.plan(self._limit)
            self.stats.draft_limit = self._plan.drafts
        lacking = [token for token in self._pending if model not in token.parts]
        n = self._n_proposals(model)
        parts = self._score(model, len(lacking), n > 0)
        for token, part in zip(lacking, parts, strict=False):
            token.parts[model] = part
        settled, all_stood = self._settle()
        yield from settled
        if n and all_stood and not self.text.ended:
            self._propose(model, parts[-1], n)
        self._next = (model + 1) % len(self._caches) if self._pending else 0

    def _n_proposals(self, model: int) -> int:
        """How many tokens the model may propose in its turn: none after an end of text."""
        if self._pending and self._pending[-1].draft.id in self.text.end_ids:
            return 0
        wanted = self._plan.drafts if model == 0 else int(self._plan.alternates)
        return min(wanted, self.text.limit - len(self.tokens) - len(self._pending))

    def _score(self, model: int, n: int, proposes: bool) -> list[_Part]:
        """One pass: the model's parts at the last `n` pending tokens, and after them."""
        if n + proposes == 0:
            return []
        cache, but = self._caches[model], int(not proposes)
        with self._pass(model, max(n + proposes, cache.unread - but)):
            return [self._part(model, row) for row in cache.rows(n + proposes, but)]

    def _part(self, model: int, logits: Logits) -> _Part:
        row, whole = Row(logits), None
        if isinstance(self._target, Contrastive):
            whole = self._sampler.probs(row) if model else log_probs(row, self._sampler)
        return _Part(self._sampler.distribution(row, self._wire_top), whole)

    def _settle(self) -> tuple[list[Token], bool]:
        """Judge in order what all models have scored, until one token is rejected."""
        text, settled = self.text, list[Token]()
        while self._pending and len(self._pending[0].parts) == len(self._caches):
            draft, proposer, parts = self._pending.pop(0)
            r, q = self._target_probs(parts), parts[proposer].q
            verdict = judge([draft.id], [q], [r], self._seed, len(text.tokens))
            self._partners.judged(proposer, verdict.betas[0])
            source: Source = "cloud" if proposer else "edge"
            if verdict.replacement is None:
                settled.append(text.commit_draft(uploaded=True, accepted=True, source=source))
                if text.ended:
                    break
                continue
            self._drop_pending()
            source = "edge" if proposer else "cloud"
            outcome = Outcome(0, [verdict.replacement], source, verdict=False, held=False)
            replaced = None if proposer else draft
            settled.append(text.commit(verdict.replacement, replaced, outcome))
            for cache in self._caches[1:]:
                cache.append(verdict.replacement)
            return settled, False
        return settled, True

    def _target_probs(self, parts: dict[int, _Part]) -> Probs:
        """r at one position, shape (V,)."""
        if isinstance(self._target, Contrastive):
            p, log_q = parts[1].whole, parts[0].whole
            assert p is not None and log_q is not None  # noqa: S101, PT018 - kept for this target
            ids = contrast_mask(p, self._target.alpha)
            return contrast(ids, np.log(p[ids]), log_q, self._target.mu, self._greedy)
        every = [parts[model].q.probs(self._n_vocab) for model in range(len(self._caches))]
        r = mixture(self._shares, every)
        return one_hot(int(r.argmax()), len(r)) if self._greedy else r

    def _propose(self, model: int, part: _Part, n: int) -> None:
        """Up to `n` tokens, the first one drawn from `part`; none after an end of text."""
        purpose = Purpose.PROPOSAL if model else Purpose.DRAFT
        for i in range(n):
            if i:
                (part,) = self._score(model, 0, proposes=True)
            index = len(self.tokens) + len(self._pending)
            chance = uniform(self._seed, purpose, index)
            token = draft_token(part.q, chance, self._seed, index, "none", self._greedy)
            draft = Draft(index, token, part.q)
            self.stats.drafts += model == 0
            self._pending.append(_Pending(draft, model, {model: part}))
            self.text.push(draft)
            for cache in self._caches[1:]:
                cache.append(token)
            if token in self.text.end_ids:
                return

    def _drop_pending(self) -> None:
        """Take back all that is not settled, from every model."""
        self._pending.clear()
        self.text.rollback()
        for cache, origin in zip(self._caches[1:], self._origins[1:], strict=True):
            cache.rollback(origin + len(self.tokens))

    @contextmanager
    def _pass(self, model: int, ids: int) -> Iterator[None]:
        """Time a pass over so many ids."""
        begun = time.perf_counter()
        yield
        took = time.perf_counter() - begun
        self._partners.costs[model].add(took, ids)
        if model == 0:
            self.stats.device_time += took
        else:
            self.stats.cloud_time += took
