"""Judge drafts with the large model: one call as a coroutine, from request to reply.

No model, no HTTP, no threads: it yields what it wants evaluated and is sent the rows, so that a
scheduler can put the wishes of many calls into one pass.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..lm.draws import Purpose, uniform
from ..lm.engines.protocol import Logits
from ..lm.ids import common_length
from ..lm.row import Row
from ..lm.sampling import TOTAL, Distribution, Probs, Sparse, rejection
from ..lm.targets import Contrastive, Llm, Target, Weighted
from ..lm.verification import Verdict, bonus_token, judge, judge_coupled, target_probs
from ..wire.codec import OutOfRange, pack_contrast, pack_distribution
from ..wire.messages import Reply, Request, Settings
from .sessions import Session


class Ask(NamedTuple):
    """Ids that a call wants appended to its sequence, and how many rows of logits it wants.

    Attributes:
        at: position of the first; what is cached from there on is dropped: that is the rollback.
        tokens: the ids.
        rows: for so many of the last ids; sent into the call in one piece, valid until its next
            wish.
    """

    at: int
    tokens: list[int]
    rows: int


Answer = Generator[Ask, Logits, Reply]
"""A call under way: yields wishes, is sent rows of shape (rows, V), returns the reply."""


@dataclass(frozen=True)
class Judge:
    """The LLM's side of the method.

    Args:
        n_ctx: ids that one session may hold.
        end_ids: what ends a text.
        max_rows: most rows in one wish.
        wire_top: most ids in a distribution that is sent.
    """

    n_ctx: int
    end_ids: frozenset[int]
    max_rows: int = 64
    wire_top: int = 64

    def answer(self, session: Session, request: Request, settings: Settings) -> Answer:
        """Weigh the skipped tokens, judge the drafts until one is rejected, supply what is asked.

        Raises:
            OutOfRange: the request does not fit the session or the context.
            EngineError: the model gave no numbers.
        """
        ids = session.ids[: request.start] + list(request.tokens)
        first_draft = len(ids) - len(request.drafts)
        first_weighed = first_draft - len(request.weights)
        self._check(request, settings, ids, first_draft, first_weighed)
        stop = len(ids) if request.bonus else len(ids) - 1  # the last id needs no row
        n_rows = stop - first_weighed + 1
        # The id before the first row is evaluated again: an earlier call's row is never trusted.
        same = common_length(session.ids[: session.cached], ids)
        at = max(0, min(session.cached, same, stop - n_rows))
        session.ids = ids[: max(request.start, at)]  # should it fail below, this is what is true
        session.read = len(session.ids)
        origin, target = settings.origin, settings.target

        betas: list[float] = []
        distributions: list[bytes] = []
        position, accepted, replacement = first_weighed, 0, None
        p: Probs | Sparse | None = None  # after the last id, if that was asked for
        for ask in _wishes(ids, at, stop, n_rows, self.max_rows):
            for row in (yield ask):
                p = self._unrounded(settings, row)
                if position < first_draft:
                    weight = request.weights[position - first_weighed]
                    betas.append(_skipped(settings, ids[position], weight, p, position - origin))
                    if isinstance(target, Contrastive):
                        distributions.append(pack_contrast(_whole(p), target.alpha))
                elif position < len(ids):
                    draft = request.drafts[position - first_draft]
                    verdict = _judge(settings, ids[position], draft, p, position - origin)
                    betas += verdict.betas
                    accepted, replacement = accepted + verdict.accepted, verdict.replacement
                position += 1
                if replacement is not None:
                    break
            if replacement is not None:
                break

        del ids[first_draft + accepted :]
        tokens: list[int] = []
        proposal = None
        if replacement is not None:
            tokens = [replacement]
        elif p is not None and request.bonus and not self._is_over(request, target, ids):
            if not isinstance(target, Llm):
                if isinstance(target, Contrastive):
                    distributions.append(pack_contrast(_whole(p), target.alpha))
                proposal, sent = _propose(_whole(p), settings, len(ids), self.wire_top)
                distributions.append(pack_distribution(sent))
            else:
                while True:
                    index = len(ids) + len(tokens) - origin
                    tokens.append(bonus_token(p, settings.seed, index, settings.coupling))
                    if len(tokens) == request.bonus or tokens[-1] in self.end_ids:
                        break
                    rows = yield Ask(len(ids) + len(tokens) - 1, tokens[-1:], 1)
                    p = self._unrounded(settings, rows[0])
        session.ids = ids + tokens
        session.read = len(session.ids) - bool(tokens)  # the last of them was not evaluated
        return Reply(
            id=request.id,
            start=request.start,
            accepted=accepted,
            tokens=tokens,
            betas=betas,
            held=len(session.ids),
            proposal=proposal,
            distributions=distributions,
        )

    def _check(
        self, request: Request, settings: Settings, ids: list[int], draft: int, weighed: int
    ) -> None:
        if weighed < len(ids) and weighed < 1:
            raise OutOfRange("nothing before the first token to judge; a prompt needs one id")
        if request.bonus and not ids:
            raise OutOfRange("nothing to go on from; a prompt needs one id")
        if (request.drafts or request.bonus) and draft < settings.origin:
            raise OutOfRange("drafts before the origin of the reply")
        if settings.coupling != "none" and weighed < min(len(ids), settings.origin):
            raise OutOfRange("skipped tokens before the origin of the reply")
        if len(ids) + request.bonus > self.n_ctx:
            raise OutOfRange(f"the text is longer than the context of {self.n_ctx} tokens")

    def _is_over(self, request: Request, target: Target, ids: list[int]) -> bool:
        """Has a draft ended the text? Those of a contrast travel as if they had been skipped."""
        drafts = request.weights if isinstance(target, Contrastive) else request.drafts
        return bool(drafts) and ids[-1] in self.end_ids

    def _unrounded(self, settings: Settings, row: NDArray[np.float32]) -> Probs | Sparse:
        """The LLM's p at one position; cut and rounded only in a weighted ensemble."""
        if isinstance(settings.target, Weighted):
            return settings.parts.distribution(Row(row), self.wire_top).probs(len(row))
        p = settings.parts.unrounded(Row(row))
        return p if isinstance(settings.target, Llm) else _whole(p, len(row))


def _whole(p: Probs | Sparse, n_vocab: int = 0) -> Probs:
    """The vector: ensembles need all of it."""
    return p.dense(n_vocab) if isinstance(p, Sparse) else p


def _wishes(ids: list[int], at: int, stop: int, rows: int, most: int) -> Iterator[Ask]:
    """Ask for ids[at:stop] and the last `rows` rows, at most `most` rows at a time."""
    while at < stop:
        now = min(rows, most)
        end = stop - rows + now
        yield Ask(at, ids[at:end], now)
        at, rows = end, rows - now


def _skipped(settings: Settings, token: int, weight: int, p: Probs | Sparse, index: int) -> float:
    """How likely the LLM would have rejected a skipped token; coupled, whether it would have."""
    if settings.coupling == "gumbel":
        return judge_coupled([token], [p], settings.seed, index).betas[0]
    return rejection(float(p[token]), weight / TOTAL)


def _judge(
    settings: Settings, draft: int, q: Distribution, p: Probs | Sparse, index: int
) -> Verdict:
    """Judge one draft, number `index` of the reply, by the rule that was agreed."""
    if settings.coupling == "gumbel":
        return judge_coupled([draft], [p], settings.seed, index)
    r = p
    if not isinstance(p, Sparse):
        r = target_probs(settings.target, q, p, settings.sampler.greedy)
    return judge([draft], [q], [r], settings.seed, index)


def _propose(p: Probs, settings: Settings, at: int, most: int) -> tuple[int, Distribution]:
    """The LLM's turn as proposer: a draw from exactly the distribution that is sent along."""
    ids = np.flatnonzero(p)
    if len(ids) > most:
        ids = np.sort(np.argpartition(p, len(p) - most)[len(p) - most :])
    sent = Distribution.rounded(ids, p[ids])
    u = uniform(settings.seed, Purpose.PROPOSAL, at - settings.origin)
    return sent.best if settings.sampler.greedy else sent.draw(u), sent
