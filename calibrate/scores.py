"""How well a score tells which drafts the LLM rejects. Pure functions.

Each token counts twice: beta as rejected and 1 - beta as accepted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auroc(score: Floats, beta: Floats) -> float:
    """P(score of a rejected token > score of an accepted one), ties counting half.

    Args:
        score: high where rejection is expected, shape (T,).
        beta: rejection probabilities, shape (T,).

    Returns:
        NaN if there is nothing to tell apart.
    """
    _, level = np.unique(score, return_inverse=True)
    rejected = np.bincount(level, weights=beta)
    accepted = np.bincount(level, weights=1.0 - beta)
    below = np.cumsum(accepted) - accepted
    pairs = rejected.sum() * accepted.sum()
    if pairs <= 0.0:
        return float("nan")
    return float((rejected * (below + 0.5 * accepted)).sum() / pairs)


def calibration_error(predicted: Floats, beta: Floats, bins: int = 15) -> float:
    """Expected calibration error: mean |predicted - beta| over bins of equal width.

    Args:
        predicted: rejection probabilities as a model gives them, shape (T,), in [0, 1].
        beta: what they should be, shape (T,).
        bins: how many.
    """
    which = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, weights=predicted - beta, minlength=bins)
    return float(np.abs(gap).sum() / len(beta))


def risk_curve(score: Floats, beta: Floats) -> tuple[Floats, Floats]:
    """Upload rate and risk of each threshold on a score: upload what scores higher.

    Returns:
        rate and risk, shape (levels + 1,), from "upload nothing" to "upload everything". Risk is
        per generated token: mean of 1[skipped] beta.
    """
    levels, level = np.unique(score, return_inverse=True)
    count = np.bincount(level, minlength=len(levels))
    mass = np.bincount(level, weights=beta, minlength=len(levels))
    skipped = np.concatenate([np.cumsum(count)[::-1], [0]]) / len(beta)
    risk = np.concatenate([np.cumsum(mass)[::-1], [0.0]]) / len(beta)
    return 1.0 - skipped, risk


def rate_at_risk(
    score: Floats | NDArray[np.int64],
    beta: Floats,
    risks: Sequence[float],
    counts: NDArray[np.int64] | None = None,
) -> Floats:
    """The smallest upload rate of a threshold on the score whose risk is at most each of `risks`.

    Args:
        score, beta: as for `risk_curve`. Integers are ranks from 0 on, and need no sorting.
        risks: mean of 1[skipped] beta per token, each at least 0.
        counts: how often each token counts, shape (T,), as a bootstrap draws it; None: once.

    Returns:
        Rates, shape (len(risks),).
    """
    once = np.ones(len(beta), dtype=np.int64) if counts is None else counts
    ranks = score if score.dtype == np.int64 else np.unique(score, return_inverse=True)[1]
    level = ranks.astype(np.int64, copy=False)
    skipped = np.concatenate([[0.0], np.cumsum(np.bincount(level, weights=once))]) / once.sum()
    risk = np.concatenate([[0.0], np.cumsum(np.bincount(level, weights=once * beta))]) / once.sum()
    at = np.searchsorted(risk, np.asarray(risks) + 1e-12, side="right") - 1
    return np.asarray(1.0 - skipped[at], dtype=np.float64)
