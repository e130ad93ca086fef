"""What an answer of the verifier makes of the drafts, for each target.

The loop commits outcomes and knows no targets. One answer has one outcome, but for an ensemble,
where the LLM may propose the next token and the device judges it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...lm.sampling import Probs
from ...lm.targets import Contrastive
from ...lm.verification import Verdict, contrast, judge, target_probs
from ...wire.codec import unpack_contrast
from ...wire.messages import Reply
from ..events import Draft, Outcome
from ..link.call import Call
from .drafter import Drafter


def outcomes(call: Call, reply: Reply, drafter: Drafter) -> Iterator[Outcome]:
    """What to commit, in order; each is asked for when the one before has been committed.

    Args:
        call: its drafts are the first of those not committed.
        reply: the answer.
        drafter: of the reply.
    """
    if isinstance(drafter.target, Contrastive) and call.drafts:
        verdict = _judge_contrast(call.drafts, reply, drafter.target, drafter)
        drafter.judged(verdict.betas)
        tokens = [] if verdict.replacement is None else [verdict.replacement]
        yield Outcome(verdict.accepted, tokens, verdict=False, held=False)
        if tokens:
            return  # what the LLM proposes would follow a draft that is gone
    else:
        yield Outcome(reply.accepted, reply.tokens, verdict=False if call.drafts else None)
    if reply.proposal is not None:
        yield _judge_proposal(call, reply, reply.proposal, drafter)


def _judge_proposal(call: Call, reply: Reply, proposal: int, drafter: Drafter) -> Outcome:
    """The roles swapped: the LLM proposed, from the distribution that it sent, the device judges.

    arXiv 2502.01662, section 3.
    """
    target, n_vocab = drafter.target, drafter.n_vocab
    p = Reply.proposed_from(reply.distributions[-1], proposal, n_vocab)
    q, log_q = drafter.before(proposal)
    if isinstance(target, Contrastive):
        assert log_q is not None  # noqa: S101 - measured for this target
        ids, log_p = unpack_contrast(reply.distributions[-2], n_vocab)
        r = contrast(ids, log_p, log_q, target.mu, drafter.greedy)
    else:
        r = target_probs(target, q, p.probs(n_vocab), drafter.greedy)
    position = len(call.reply_ids) + len(call.drafts)
    replacement = judge([proposal], [p], [r], drafter.seed, position).replacement
    if replacement is None:
        return Outcome(0, [proposal], "cloud", verdict=True, held=False)
    return Outcome(0, [replacement], "edge", verdict=False, held=False)


def _judge_contrast(
    drafts: Sequence[Draft], reply: Reply, target: Contrastive, drafter: Drafter
) -> Verdict:
    """Judge drafts by the contrast of the LLM's p in `reply` and the device's whole q."""
    proposed = 0 if reply.proposal is None else 2  # the last ones are of the proposal
    last = len(reply.distributions) - proposed
    ps = reply.distributions[last - len(drafts) : last]
    rs: list[Probs] = []
    for draft, raw in zip(drafts, ps, strict=True):
        ids, log_p = unpack_contrast(raw, drafter.n_vocab)
        assert draft.log_q is not None  # noqa: S101 - kept for this target
        rs.append(contrast(ids, log_p, draft.log_q, target.mu, drafter.greedy))
    return judge([d.id for d in drafts], [d.q for d in drafts], rs, drafter.seed, drafts[0].index)
