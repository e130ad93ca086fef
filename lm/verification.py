"""Settle drafted tokens by the rule of speculative sampling.

Pure: the verifier, the device (for the LLM's proposals), calibration and benchmarks all judge with
these functions. The random numbers come from the position in the reply (`draws.py`), so judging
twice gives the same verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .draws import Purpose, uniform
from .sampling import TOTAL, Distribution, Probs, accept, rejection, resample
from .targets import Target, Weighted

__all__ = ["Verdict", "bonus_token", "contrast", "judge", "mixture", "target_probs"]


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


def bonus_token(p: Probs, seed: int, position: int) -> int:
    """The LLM's own token at `position`: a draw from p."""
    return resample(p, None, uniform(seed, Purpose.BONUS, position))


def mixture(shares: Sequence[float], parts: Sequence[Probs]) -> Probs:
    """r = sum of share_i p_i over any number of models, shape (V,) (arXiv 2502.01662, section 3).

    Whichever model j proposes, `judge` settles with min(1, r / p_j) and norm(max(0, r - p_j)): a
    token is settled once every model has scored it, and follows r for every proposer. It stands
    with probability at least share_j.
    """
    r = parts[0] * shares[0]
    for share, part in zip(shares[1:], parts[1:], strict=True):
        r += share * part
    return r


def contrast(ids: NDArray[np.int64], log_p: Probs, log_q: Probs, mu: float) -> Probs:
    """r proportional to p q^-mu at `ids`, zero elsewhere (arXiv 2502.01662, section 3).

    Args:
        ids: where p is at least a tenth of its peak, shape (n,).
        log_p: logarithms of p there, shape (n,).
        log_q: logarithms of the device's whole distribution, shape (V,).
        mu: how much of the device is taken away.
    """
    score = log_p - mu * log_q[ids]
    mass = np.exp(score - score.max())
    r = np.zeros(len(log_q))
    r[ids] = mass / mass.sum()
    return r


def target_probs(target: Target, q: Distribution, p: Probs) -> Probs:
    """The target r, shape (V,), of one position, from the device's q and the LLM's p.

    A contrast is made on the device, which alone has the whole q.
    """
    if not isinstance(target, Weighted):
        return p
    return mixture([1.0 - target.weight, target.weight], [p, q.probs(len(p))])
