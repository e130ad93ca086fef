"""One call, from its submission to its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from ...common.errors import CloudError, ProtocolError
from ...lm.sampling import TOTAL, Distribution
from ...lm.targets import Contrastive
from ...wire.codec import require, unpack_contrast
from ...wire.messages import (
    Conflict,
    Info,
    Limits,
    Malformed,
    Reply,
    Request,
    Settings,
    prefix_hash,
)
from ..events import Draft, SkippedVerdict
from .protocol import Deadline, Link


class DraftsTooLarge(Exception):
    """The verifier takes fewer drafts, or shorter distributions, than are to be sent: no fault,
    but known only now. It was not asked; `Session.info` has its limits."""


@dataclass
class Call:
    """What is asked, about which text, and what came of it.

    It is a copy of the books at its submission: the thread that makes the call changes only this
    object, and nobody may be waiting for that any more.

    Attributes:
        id: counted in the session; every try carries the same.
        session_id: whose call it is.
        prompt: the prompt as the verifier's template has it; None: not rendered yet.
        reply_ids: ids of the reply committed so far; they follow the prompt.
        drafts: follow those.
        skipped: the last of the committed ones, whose betas are asked for.
        bonus: how many tokens the LLM may add.
        held: how many ids of prompt and reply the verifier holds, as far as is known.
        settings: of the reply.
        settings_sent: the verifier has them already.
        deadline: for all of it.
        begun: when it was submitted.
        future: the reply, or why there is none.
    """

    id: int
    session_id: str
    prompt: tuple[int, ...] | None
    reply_ids: tuple[int, ...]
    drafts: tuple[Draft, ...]
    skipped: tuple[Draft, ...]
    bonus: int
    held: int
    settings: Settings
    settings_sent: bool
    deadline: Deadline
    begun: float
    future: Future[Reply] = field(default_factory=Future)

    @property
    def done(self) -> bool:
        """Is the answer (or the failure) there?"""
        return self.future.done()

    @property
    def is_contrast(self) -> bool:
        """The device judges: drafts travel as if skipped, and the LLM's p comes back for each."""
        return isinstance(self.settings.target, Contrastive)

    @property
    def is_coupled(self) -> bool:
        """The LLM's own choice judges: ids are all that it needs."""
        return self.settings.coupling == "gumbel"

    def positions(self, reply: Reply) -> int:
        """How many ids the LLM has evaluated for the answer, rejected drafts included."""
        ids = len(self.prompt or ()) + len(self.reply_ids) + len(self.drafts)
        return max(1, ids - self.held + min(self.bonus, 1), reply.held - self.held)

    def sent(self, draft: Draft) -> Distribution:
        """What is told of a draft: what it was drawn from; with coupled draws, only what it is."""
        return Distribution.certain(draft.id) if self.is_coupled else draft.q

    def judged_betas(self, reply: Reply) -> Sequence[float]:
        """Betas of the drafts that the verifier looked at."""
        n = 0 if self.is_contrast else min(reply.accepted + 1, len(self.drafts))
        return reply.betas[len(reply.betas) - n :]

    def skipped_verdicts(self, reply: Reply) -> list[SkippedVerdict]:
        """What the answer says of tokens skipped before, oldest first."""
        rest = len(self.drafts) if self.is_contrast else len(self.judged_betas(reply))
        n = len(reply.betas) - rest
        skipped = self.skipped[len(self.skipped) - n :]
        return [
            SkippedVerdict(draft.index, draft.uncertainty, beta)
            for draft, beta in zip(skipped, reply.betas, strict=False)
        ]


def exchange(call: Call, link: Link, info: Info, n_vocab: int) -> Reply:
    """Make the call, with one re-send if the verifier lacks what was thought to be there.

    Args:
        call: its prompt is rendered.
        link, info: to and of the verifier.
        n_vocab: V.

    Raises:
        CloudError: there is no answer.
        DraftsTooLarge: they are beyond the verifier's limits.
    """
    limits = info.limits
    ids = [*(call.prompt or ()), *call.reply_ids, *(draft.id for draft in call.drafts)]
    room = info.n_ctx - len(ids)
    if room < min(call.bonus, 1):
        raise CloudError(f"the text is longer than the context of {info.model} (cloud)")
    too_long = any(len(call.sent(draft).ids) > limits.wire_top for draft in call.drafts)
    if too_long or len(call.drafts) > limits.drafts_per_call:
        raise DraftsTooLarge
    weighed = [*call.skipped, *call.drafts] if call.is_contrast else call.skipped
    request = Request(
        id=call.id,
        start=0,
        prefix=b"",
        tokens=ids,
        weights=[TOTAL if call.is_coupled else draft.weight for draft in weighed],
        drafts=[] if call.is_contrast else [call.sent(draft) for draft in call.drafts],
        bonus=min(call.bonus, room, limits.bonus_per_call),
        settings=call.settings,
    )
    answer = _send(call, link, request, call.held, call.settings_sent, limits, n_vocab)
    if isinstance(answer, Conflict):
        held = answer.held if _agrees(answer, ids) else 0
        answer = _send(call, link, request, held, False, limits, n_vocab)
    if isinstance(answer, Conflict):
        raise ProtocolError("the verifier forgets what it was just sent")
    if call.is_contrast:
        _check_contrasts(answer, len(call.drafts), n_vocab)
    return answer


def _send(
    call: Call,
    link: Link,
    whole: Request,
    start: int,
    settings_sent: bool,
    limits: Limits,
    n_vocab: int,
) -> Reply | Conflict:
    """`whole.tokens` are all ids; send those from `start` on, in several calls if too many."""
    ids, n_drafts = whole.tokens, len(whole.drafts)
    # What is judged or weighed goes in the last call, after one id at least, and must not be held
    # yet, or its rows would be gone.
    room = min(limits.tokens_per_call, len(ids) - 1) - n_drafts
    n_weights = max(0, min(len(whole.weights), limits.weights_per_call, room))
    first = max(0, len(ids) - n_drafts - n_weights)
    start = min(start, first)
    while len(ids) - start > limits.tokens_per_call:
        end = min(start + limits.tokens_per_call, first)
        part = replace(
            whole, start=start, prefix=prefix_hash(ids[:start]), tokens=ids[start:end],
            weights=(), drafts=(), bonus=0, id=(whole.id + start + 2**31) % 2**32,
        )  # fmt: skip
        answer = link.verify(call.session_id, part, n_vocab, call.deadline)
        if isinstance(answer, Conflict):
            return answer
        start = end
    part = replace(
        whole,
        start=start,
        prefix=prefix_hash(ids[:start]),
        tokens=ids[start:],
        weights=whole.weights[len(whole.weights) - n_weights :],
        settings=None if settings_sent and start > 0 else whole.settings,
    )
    return link.verify(call.session_id, part, n_vocab, call.deadline)


def _agrees(conflict: Conflict, ids: Sequence[int]) -> bool:
    """Is what the verifier holds the beginning of our own text?"""
    held = conflict.held
    return held <= len(ids) and conflict.held_prefix == prefix_hash(ids[:held])


def _check_contrasts(reply: Reply, n: int, n_vocab: int) -> None:
    """Refuse a reply without the distributions that the drafts are to be judged by."""
    try:
        contrasts = list(reply.distributions)
        if reply.proposal is not None:
            contrasts.pop()  # what it was drawn from; before it, the contrast there
            n += 1
        require(len(contrasts) >= n, Malformed, "distributions are missing")
        for raw in contrasts:
            unpack_contrast(raw, n_vocab)
    except Malformed as error:
        raise ProtocolError(f"the verifier answered nonsense: {error}") from None
