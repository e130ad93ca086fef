"""The device's half of an ensemble: it settles what only it can (arXiv 2502.01662)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...lm.row import Row
from ...lm.sampling import Distribution, Probs, Sampler
from ...lm.targets import Contrastive, Target
from ...lm.verification import Verdict, contrast, judge, target_probs
from ...wire.messages import Reply
from ..events import Draft

__all__ = ["judge_contrast", "judge_proposal", "log_probs"]


def judge_proposal(
    reply: Reply, proposal: int, q: Distribution, target: Target, seed: int, position: int, n: int
) -> Verdict:
    """Judge the LLM's proposal with the roles swapped: it was drawn from p, and the device has q.

    Args:
        reply: holds the distribution that the proposal was drawn from.
        proposal: the LLM's token.
        q: the device's distribution at this position.
        target: the ensemble.
        seed, position: of the token.
        n: V.
    """
    p = Reply.proposed_from(reply.distributions[0], proposal, n)
    return judge([proposal], [p], [target_probs(target, q, p.probs(n))], seed, position)


def judge_contrast(
    drafts: Sequence[Draft], reply: Reply, target: Contrastive, seed: int, n: int
) -> Verdict:
    """Judge drafts against the contrast of the LLM's p in `reply` and the device's own q."""
    laws = reply.distributions[len(reply.distributions) - len(drafts) :]
    rs: list[Probs] = []
    for draft, raw in zip(drafts, laws, strict=True):
        ids, log_p = Reply.contrast_from(raw, n)
        assert draft.log_q is not None  # noqa: S101 - kept for this target
        rs.append(contrast(ids, log_p, draft.log_q, target.mu))
    first = drafts[0].index
    return judge([d.id for d in drafts], [d.q for d in drafts], rs, seed, first)


def log_probs(row: Row, sampler: Sampler) -> Probs:
    """Logarithms of the device's whole distribution under the sampler's temperature, shape (V,)."""
    y = np.subtract(row.logits, row.peak, dtype=np.float64)
    y /= 1.0 if sampler.greedy else sampler.temperature
    log_q: Probs = y - np.log(np.exp(y).sum())
    return log_q
