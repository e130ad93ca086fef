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

from .draws import Purpose, per_id, uniform
from .sampling import TOTAL, Distribution, Probs, Sparse, accept, one_hot, rejection, resample
from .targets import Coupling, Target, Weighted


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
    rs: Sequence[Probs | Sparse],
    seed: int,
    position: int,
) -> Verdict:
    """Accept drafts in order until one is rejected, and replace that one.

    Draft x stands with probability min(1, r(x) / q(x)); a rejected one is replaced by a draw from
    norm(max(0, r - q)), so a settled token follows r exactly (arXiv 2211.17192, A.1).

    Args:
        drafts: ids, drawn from `qs`.
        qs: what each draft was drawn from.
        rs: the target at each position, shape (V,) each, or sparse.
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


def judge_coupled(
    drafts: Sequence[int], ps: Sequence[Probs | Sparse], seed: int, position: int
) -> Verdict:
    """Accept drafts in order until one is not what the LLM chooses itself; its choice replaces it.

    With `coupled_draw` on both sides the text is the LLM's own draw at every position, whatever the
    device drafts (arXiv 2408.07978), and no distribution of the device is needed. A beta is 0 or 1.

    Args:
        drafts: ids.
        ps: the LLM's distribution at each position, shape (V,) each, or sparse.
        seed: of the reply.
        position: of the first draft in the reply.
    """
    betas: list[float] = []
    for i, (draft, p) in enumerate(zip(drafts, ps, strict=True)):
        own = bonus_token(p, seed, position + i, "gumbel")
        betas.append(float(own != draft))
        if own != draft:
            return Verdict(i, own, betas)
    return Verdict(len(drafts), None, betas)


def coupled_draw(ids: NDArray[np.int64], mass: Probs, seed: int, position: int) -> int:
    """argmax of log mass + Gumbel(seed, position, id): a draw from the normalised mass.

    Two distributions choose the same id with probability at least (1 - TV) / (1 + TV)
    (arXiv 2408.07978).

    Args:
        ids: shape (n,), ascending.
        mass: shape (n,), positive, of any sum.
        seed, position: of the token.
    """
    if len(ids) == 1:
        return int(ids[0])
    # log mass + g with g = -log(-log U) is largest where mass / -log U is.
    waits = -np.log(np.maximum(per_id(seed, position, ids), 2.0**-54))
    return int(ids[(mass / waits).argmax()])


def draft_token(
    q: Distribution, u: float, seed: int, position: int, coupling: Coupling, greedy: bool
) -> int:
    """What the device proposes: a draw from q by the uniform `u`, or coupled with the LLM's.

    Where only the best id of an ensemble counts, its likeliest candidate: the best id of q.
    """
    if coupling == "gumbel":
        return coupled_draw(q.ids, q.weights.astype(np.float64), seed, position)
    return q.best if greedy else q.draw(u)


def bonus_token(p: Probs | Sparse, seed: int, position: int, coupling: Coupling = "none") -> int:
    """The LLM's own token at `position`: a draw from p."""
    if coupling == "gumbel":
        if isinstance(p, Sparse):
            left = p.probs > 0.0
            return coupled_draw(p.ids[left], p.probs[left], seed, position)
        ids = np.flatnonzero(p)
        return coupled_draw(ids, p[ids], seed, position)
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


def contrast_mask(p: Probs, alpha: float) -> NDArray[np.int64]:
    """The ids, ascending, where p (V,) is at least alpha of its peak (arXiv 2210.15097)."""
    return np.flatnonzero((p >= alpha * p.max()) & (p > 0.0))


def contrast(
    ids: NDArray[np.int64], log_p: Probs, log_q: Probs, mu: float, greedy: bool = False
) -> Probs:
    """r proportional to p q^-mu at `ids`, zero elsewhere (arXiv 2502.01662, section 3).

    Args:
        ids: the mask, where p is at least alpha of its peak, shape (n,), ascending.
        log_p: logarithms of p there, shape (n,).
        log_q: logarithms of the device's whole distribution, shape (V,).
        mu: how much of the device is taken away.
        greedy: all the probability on the argmax, the lowest id on a tie.
    """
    score = log_p - mu * log_q[ids]
    r = np.zeros(len(log_q))
    if greedy:
        r[ids[score.argmax()]] = 1.0
        return r
    mass = np.exp(score - score.max())
    r[ids] = mass / mass.sum()
    return r


def target_probs(target: Target, q: Distribution, p: Probs, greedy: bool = False) -> Probs:
    """The target r, shape (V,), of one position, from the device's q and the LLM's p.

    A contrast is made on the device, which alone has the whole q.

    Args:
        target: the LLM or an ensemble.
        q: the device's distribution.
        p: the LLM's, shape (V,).
        greedy: an ensemble at temperature 0: all the probability on the argmax of the mixture, the
            lowest id on a tie. Its parts are at temperature 1 (`sampler_of_parts`).
    """
    if not isinstance(target, Weighted):
        return p
    r = mixture([1.0 - target.weight, target.weight], [p, q.probs(len(p))])
    return one_hot(int(r.argmax()), len(r)) if greedy else r
