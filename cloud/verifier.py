"""Judge drafts with the large model: one call, from request to reply. No HTTP, no threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..lm.draws import Purpose, uniform
from ..lm.engines.protocol import Context, Logits, Work
from ..lm.sampling import TOTAL, Distribution, Probs, rejection
from ..lm.targets import Contrastive, Weighted
from ..lm.verification import aim, judge, supply
from ..wire.codec import OutOfRange, pack_contrast, pack_distribution, prefix_hash
from ..wire.messages import Conflict, Reply, Request, Settings, Timing
from .sessions import Session, SessionKey, SessionStore

__all__ = ["Counters", "Verifier"]


@dataclass
class Counters:
    """What the verifier did since it started; `/metrics` shows it."""

    calls: int = 0
    repeats: int = 0
    conflicts: int = 0
    passes: int = 0
    positions: int = 0
    drafts: int = 0
    accepted: int = 0
    supplied: int = 0


class Verifier:
    """The LLM's side of the method, for many sessions in one context.

    Args:
        context: the large model.
        n_ctx: ids that one session may hold.
        n_sequences: sessions that the context can hold at once.
        per_owner: sessions that one owner (API key) may have.
        wire_top: most ids in a law that is sent.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        context: Context,
        n_ctx: int,
        n_sequences: int,
        per_owner: int = 64,
        wire_top: int = 64,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.n_ctx = n_ctx
        self.counters = Counters()
        self.store = SessionStore(context, n_sequences, per_owner)
        self._context = context
        self._wire_top = wire_top
        self._ends = context.vocab.end_ids
        self._clock = clock

    def verify(self, key: SessionKey, request: Request, queued: int = 0) -> Reply | Conflict:
        """Answer one call. A repeat of the newest call gets the same reply.

        Args:
            key: whose session.
            request: checked by the wire.
            queued: microseconds that the call has waited.

        Raises:
            OutOfRange: the request does not fit the session or the context.
            EngineError: the model failed.
        """
        session = self.store.use(key)
        self.counters.calls += 1
        binding = request.binding(key[1])
        if session.last is not None and session.last.id == request.id:
            if session.last.binding != binding:
                raise OutOfRange(f"call {request.id} was answered, and had another content")
            self.counters.repeats += 1
            return session.last
        settings = request.settings or session.settings
        held = len(session.ids)
        if (
            settings is None
            or request.start > held
            or prefix_hash(session.ids[: request.start]) != request.prefix
        ):
            self.counters.conflicts += 1
            return Conflict(held, prefix_hash(session.ids))
        begun = self._clock()
        reply = self._answer(session, request, settings, binding)
        model = int((self._clock() - begun) * 1e6)
        session.settings = settings
        session.last = replace(reply, us=Timing(queued, model))
        return session.last

    def _answer(
        self, session: Session, request: Request, settings: Settings, binding: bytes
    ) -> Reply:
        ids = session.ids[: request.start] + list(request.tokens)
        first_draft = len(ids) - len(request.drafts)
        first_weighed = first_draft - len(request.weights)
        self._check(request, settings, ids, first_draft, first_weighed)
        stop = len(ids) if request.supply else len(ids) - 1  # the last id needs no row
        rows = self._evaluate(session, ids[:stop], request.start, stop - first_weighed + 1)
        betas: list[float] = []
        distributions: list[bytes] = []
        for row, token, weight in zip(rows, ids[first_weighed:], request.weights, strict=False):
            p = self._law(settings, row)
            betas.append(rejection(float(p[token]), weight / TOTAL))
            if isinstance(settings.target, Contrastive):
                distributions.append(pack_contrast(p))
        judged = [self._law(settings, row) for row in rows[len(request.weights) :]]
        verdict = judge(
            ids[first_draft:],
            request.drafts,
            [aim(settings.target, q, p) for q, p in zip(request.drafts, judged, strict=False)],
            settings.seed,
            first_draft - settings.origin,
        )
        del ids[first_draft + verdict.accepted :]
        tokens: list[int] = []
        proposal = None
        if verdict.replacement is not None:
            tokens = [verdict.replacement]
        elif request.supply and not (request.drafts and ids[-1] in self._ends):
            if isinstance(settings.target, Weighted):
                proposal, distribution = self._propose(judged[-1], settings, len(ids))
                distributions = [pack_distribution(distribution)]
            else:
                tokens = self._supply(session, request.supply, settings, ids, judged[-1])
        self.counters.drafts += len(request.drafts)
        self.counters.accepted += verdict.accepted
        self.counters.supplied += len(tokens) if verdict.replacement is None else 0
        session.ids = ids + tokens
        return Reply(
            id=request.id,
            start=request.start,
            binding=binding,
            accepted=verdict.accepted,
            tokens=tokens,
            betas=betas + verdict.betas,
            held=len(session.ids),
            proposal=proposal,
            distributions=distributions,
        )

    def _check(
        self, request: Request, settings: Settings, ids: list[int], draft: int, weighed: int
    ) -> None:
        if weighed < len(ids) and weighed < 1:
            raise OutOfRange("nothing before the first token to judge; a prompt needs one id")
        if request.supply and not ids:
            raise OutOfRange("nothing to go on from; a prompt needs one id")
        if (request.drafts or request.supply) and draft < settings.origin:
            raise OutOfRange("drafts before the origin of the reply")
        if len(ids) + request.supply > self.n_ctx:
            raise OutOfRange(f"the text is longer than the context of {self.n_ctx} ids")

    def _evaluate(self, session: Session, ids: list[int], start: int, n_rows: int) -> Logits:
        """The logits at the last `n_rows` positions after `ids`, shape (n_rows, V).

        What is cached from `start` on is dropped: that is the rollback. The id before it is
        evaluated again, so that its row is there; a row of an earlier call is never trusted.
        """
        del session.ids[start:]  # should the model fail below, they are not what is cached
        cached = max(0, min(self._context.length(session.sequence), start - 1))
        self._context.truncate(cached, session.sequence)
        self.store.make_room(session, len(ids))
        return self._decode(session, ids[cached:], n_rows)

    def _decode(self, session: Session, tokens: list[int], n_rows: int) -> Logits:
        (rows,) = self._context.decode([Work(session.sequence, tokens, n_rows)])
        self.counters.passes += bool(tokens)
        self.counters.positions += len(tokens)
        return rows

    def _law(self, settings: Settings, row: NDArray[np.float32]) -> Probs:
        """The LLM's p at one position; sparse and rounded only in a weighted ensemble."""
        if isinstance(settings.target, Weighted):
            return settings.sampler.distribution(row, self._wire_top).probs(len(row))
        return settings.sampler.probs(row)

    def _propose(self, p: Probs, settings: Settings, at: int) -> tuple[int, Distribution]:
        """The LLM's turn as proposer: a draw from exactly the law that is sent along."""
        ids = np.flatnonzero(p)
        law = Distribution(ids, np.rint(p[ids] * TOTAL).astype(np.int64))
        return law.draw(uniform(settings.seed, Purpose.PROPOSAL, at - settings.origin)), law

    def _supply(
        self, session: Session, n: int, settings: Settings, ids: list[int], p: Probs
    ) -> list[int]:
        """Up to `n` tokens of the LLM's own, until it ends the text."""
        tokens: list[int] = []
        while True:
            position = len(ids) + len(tokens) - settings.origin
            tokens.append(supply(p, settings.seed, position))
            if len(tokens) == n or tokens[-1] in self._ends:
                return tokens
            self.store.make_room(session, len(ids) + len(tokens))
            p = self._law(settings, self._decode(session, tokens[-1:], 1)[0])
