"""What an answer of the verifier makes of the drafts, for each target.

The loop commits outcomes and knows no targets. One answer has one outcome, but for a weighted
ensemble, where the LLM may propose the next token and the device judges it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...lm.sampling import Probs
from ...lm.targets import Contrastive
from ...lm.verification import Verdict, contrast, judge, target_probs
from ...wire.messages import Reply
from ..events import Draft, Outcome
from ..link.call import Call
from .drafter import Drafter

__all__ = ["outcomes"]


def outcomes(call: Call, reply: Reply, drafter: Drafter) -> Iterator[Outcome]:
    """What to commit, in order; each is asked for when the one before has been committed.

    Args:
        call: its drafts are the first of those not committed.
        reply: the answer.
        drafter: of the reply.
    """
    if isinstance(drafter.target, Contrastive) and call.drafts:
        verdict = _judge_contrast(call.drafts, reply, drafter.target, drafter)
        tokens = [] if verdict.replacement is None else [verdict.replacement]
        yield Outcome(verdict.accepted, tokens, verdict=False, held=False)
        return
    yield Outcome(reply.accepted, reply.tokens, verdict=False if call.drafts else None)
    if reply.proposal is not None:
        yield _judge_proposal(call, reply, reply.proposal, drafter)


def _judge_proposal(call: Call, reply: Reply, proposal: int, drafter: Drafter) -> Outcome:
    """The roles swapped: the LLM proposed, from the p that it sent, and the device judges.

    arXiv 2502.01662, section 3.
    """
    p = Reply.proposed_from(reply.distributions[0], proposal, drafter.n_vocab)
    r = target_probs(
        drafter.target, drafter.distribution(), p.probs(drafter.n_vocab), drafter.greedy
    )
    position = len(call.reply_ids) + len(call.drafts)
    replacement = judge([proposal], [p], [r], drafter.seed, position).replacement
    if replacement is None:
        return Outcome(0, [proposal], "cloud", verdict=True, held=False)
    return Outcome(0, [replacement], "edge", verdict=False, held=False)


def _judge_contrast(
    drafts: Sequence[Draft], reply: Reply, target: Contrastive, drafter: Drafter
) -> Verdict:
    """Judge drafts by the contrast of the LLM's p in `reply` and the device's whole q."""
    ps = reply.distributions[len(reply.distributions) - len(drafts) :]
    rs: list[Probs] = []
    for draft, raw in zip(drafts, ps, strict=True):
        ids, log_p = Reply.contrast_from(raw, drafter.n_vocab)
        assert draft.log_q is not None  # noqa: S101 - kept for this target
        rs.append(contrast(ids, log_p, draft.log_q, target.mu, drafter.greedy))
    return judge([d.id for d in drafts], [d.q for d in drafts], rs, drafter.seed, drafts[0].index)
