"""Settle drafted tokens by the rule of speculative sampling.

Pure: the verifier, the device (for the LLM's proposals), calibration and benchmarks all judge with
these functions. The random numbers come from the position in the reply (`draws.py`), so judging
twice gives the same verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .draws import Purpose, uniform
from .sampling import TOTAL, Distribution, Probs, accept, rejection, resample
from .targets import Target, Weighted

__all__ = ["Verdict", "aim", "judge", "supply"]


class Verdict(NamedTuple):
    """What became of a block of drafts.

    Attributes:
        accepted: how many of the first drafts stand.
        replacement: the token in place of the first rejected draft; None if all stand.
        betas: the rejection probability of each draft that was looked at: as many as accepted,
            and one more after a rejection.
    """

    accepted: int
    replacement: int | None
    betas: list[float]


def judge(
    drafts: Sequence[int],
    qs: Sequence[Distribution],
    rs: Sequence[Probs],
    seed: int,
    position: int,
) -> Verdict:
    """Accept drafts in order until one is rejected, and replace that one.

    Draft x stands with probability min(1, r(x) / q(x)); a rejected one is replaced by a draw from
    norm(max(0, r - q)), so a settled token follows r exactly (arXiv 2211.17192, A.1).

    Args:
        drafts: ids, drawn from `qs`.
        qs: what each draft was drawn from.
        rs: the target at each position, shape (V,) each.
        seed: of the reply.
        position: of the first draft in the reply.
    """
    betas: list[float] = []
    for i, (draft, q, r) in enumerate(zip(drafts, qs, rs, strict=True)):
        r_draft, q_draft = float(r[draft]), q.weight(draft) / TOTAL
        betas.append(rejection(r_draft, q_draft))
        if not accept(r_draft, q_draft, uniform(seed, Purpose.ACCEPT, position + i)):
            u = uniform(seed, Purpose.RESIDUAL, position + i)
            return Verdict(i, resample(r, q, u), betas)
    return Verdict(len(drafts), None, betas)


def supply(p: Probs, seed: int, position: int) -> int:
    """The LLM's own token at `position`: a draw from p."""
    return resample(p, None, uniform(seed, Purpose.SUPPLY, position))


def aim(target: Target, q: Distribution, p: Probs) -> Probs:
    """The target r, shape (V,), of one position, from the device's q and the LLM's p.

    Weighted: r = weight q + (1 - weight) p (arXiv 2502.01662, section 3). A contrast is aimed at
    on the device, which alone has the whole q.
    """
    if not isinstance(target, Weighted):
        return p
    r = p * (1.0 - target.weight)
    r[q.ids] += target.weight * (q.weights / TOTAL)
    return r
