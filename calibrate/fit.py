"""From a shadow run to a law, thresholds and predictions. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.errors import DataError
from ..edge.policy.calibration import EstimatorName, GridRow, Law, Level
from .shadow import Replay

Floats = NDArray[np.float64]

MIN_CONVERSATIONS = 30
MIN_TOKENS = 1_000
LEAST_R = 0.3
_BINS = 40
_GRID = tuple(i / 20 for i in range(21))


class Line(NamedTuple):
    """beta = a u + b by least squares, with standard errors and the correlation r."""

    a: float
    a_error: float
    b: float
    b_error: float
    r: float


def require_enough(conversations: int, tokens: int | None = None) -> None:
    """Refuse what is too little for a fit; tokens None: not known yet.

    Raises:
        DataError: the message says how many more are needed.
    """
    if conversations < MIN_CONVERSATIONS:
        more = MIN_CONVERSATIONS - conversations
        raise DataError(
            f"{conversations} conversations are too few for a fit: {more} more are needed "
            f"(at least {MIN_CONVERSATIONS})"
        )
    if tokens is not None and tokens < MIN_TOKENS:
        more = -(-conversations * (MIN_TOKENS - tokens) // max(tokens, 1))
        raise DataError(
            f"{tokens} tokens are too few for a fit (at least {MIN_TOKENS}): "
            f"about {more} more prompts are needed"
        )


def fit_line(u: Floats, beta: Floats, cluster: NDArray[np.int64]) -> Line:
    """Least squares of beta on u, shapes (T,).

    Tokens of one conversation are alike, and beta is bounded: so the errors are those of the
    sandwich estimator clustered by conversation (Liang and Zeger 1986).

    Args:
        u: uncertainties.
        beta: rejection probabilities.
        cluster: the conversation of each token.
    """
    centred = u - u.mean()
    variation = float(centred @ centred)
    if variation < 1e-12:
        return Line(0.0, 0.0, float(beta.mean()), 0.0, 0.0)
    a = float(centred @ beta) / variation
    b = float(beta.mean() - a * u.mean())
    x = np.column_stack([u, np.ones_like(u)])
    scores = x * (beta - a * u - b)[:, None]
    _, number = np.unique(cluster, return_inverse=True)
    n = int(number.max()) + 1
    sums = np.column_stack([np.bincount(number, weights=scores[:, i]) for i in range(2)])
    bread = np.linalg.inv(x.T @ x)
    covariance = bread @ (sums.T @ sums) @ bread * (n / max(n - 1, 1))
    spread = float(np.sqrt(variation * ((beta - beta.mean()) ** 2).sum()))
    r = float(centred @ (beta - beta.mean())) / spread if spread > 0 else 0.0
    a_error, b_error = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return Line(a, float(a_error), b, float(b_error), r)


def fit_law(replays: Sequence[Replay], estimator: EstimatorName, target_risk: float = 0.001) -> Law:
    """Fit beta = a u + b and derive thresholds (arXiv 2412.12687; docs/method.md, section 2).

    Raises:
        DataError: too few conversations or tokens.
    """
    u = np.concatenate([getattr(replay, estimator) for replay in replays])
    beta = np.concatenate([replay.beta for replay in replays])
    p, q = (np.concatenate([getattr(replay, name) for replay in replays]) for name in "pq")
    cluster = np.repeat([r.conversation for r in replays], [len(r.ids) for r in replays])
    require_enough(len(np.unique(cluster)), len(u))
    line = fit_line(u, beta, cluster)
    delta = float((p < q).mean())
    averse = prone = risk = None
    advice = None
    if line.a <= 0.0 or line.r < LEAST_R:
        advice = (
            f"u says little about rejection on this text (slope {line.a:.3f}, r {line.r:.2f}), "
            "so thresholds are not trustworthy; adaptive is recommended"
        )
    else:
        averse, prone = -line.b / line.a, (delta - line.b) / line.a
        risk = risk_threshold(u, beta, target_risk)
        if line.b >= 0.0:
            advice = (
                f"tokens of no uncertainty are rejected too (intercept {line.b:.3f} >= 0): averse "
                "is negative, which uploads everything; adaptive is recommended"
            )
        elif risk is None:
            advice = f"no threshold keeps the risk at {target_risk}; adaptive is recommended"
    return Law(
        **line._asdict(),
        averse=averse,
        prone=prone,
        risk=risk,
        levels=_levels(u, beta, estimator),
        grid=_grid(u, beta, cluster, line, estimator),
        advice=advice,
    )


def risk_threshold(u: Floats, beta: Floats, target: float) -> float | None:
    """The largest level of u up to which skipping costs at most `target`; None if none does."""
    levels, level = np.unique(u, return_inverse=True)
    risk = np.cumsum(np.bincount(level, weights=beta)) / len(u)
    within = levels[risk <= target]
    return float(within[-1]) if len(within) else None


def _levels(u: Floats, beta: Floats, estimator: EstimatorName) -> tuple[Level, ...]:
    at = u if estimator == "sampled" else (np.minimum(np.floor(u * _BINS), _BINS - 1) + 0.5) / _BINS
    values, level, count = np.unique(at, return_inverse=True, return_counts=True)
    means = np.bincount(level, weights=beta) / count
    return tuple(
        Level(u=float(v), share=float(c) / len(u), beta=float(m))
        for v, c, m in zip(values, count, means, strict=True)
    )


def _grid(
    u: Floats, beta: Floats, cluster: NDArray[np.int64], line: Line, estimator: EstimatorName
) -> tuple[GridRow, ...]:
    """Predictions for one half of the conversations from the other, and what they turned out."""
    _, number = np.unique(cluster, return_inverse=True)
    halves = [number % 2 == 0, number % 2 == 1]
    lines = [fit_line(u[half], beta[half], cluster[half]) for half in halves]
    rows = []
    for threshold in _GRID:
        skipped = u <= threshold + 1e-9
        predicted = np.zeros(2)
        for half, other, other_line in zip(halves, halves[::-1], lines[::-1], strict=True):
            expected_beta = np.maximum(0.0, other_line.a * u[other] + other_line.b)
            share = float(half.mean())
            predicted += share * np.array(
                [(~skipped[other]).mean(), (skipped[other] * expected_beta).mean()]
            )
        rows.append(
            GridRow(
                threshold=threshold,
                rate_predicted=float(predicted[0]),
                rate_measured=float((~skipped).mean()),
                risk_predicted=float(predicted[1]),
                risk_measured=float((skipped * beta).mean()),
                risk_bound=_bound(u, line, threshold) if estimator == "expected" else None,
            )
        )
    return tuple(rows)


def _bound(u: Floats, line: Line, threshold: float) -> float | None:
    """f_max (a u_th + b)^2 / (2 a), f_max over the u <= u_th where a u + b > 0."""
    if line.a <= 0.0:
        return None
    first = max(0.0, -line.b / line.a)
    if threshold <= first:
        return 0.0
    count, edges = np.histogram(u, bins=_BINS, range=(0.0, 1.0))
    inside = (edges[1:] > first) & (edges[:-1] < threshold)
    density = float(count[inside].max(initial=0)) / len(u) * _BINS
    low = max(0.0, line.b)  # b > 0: the integral begins at u = 0 and not where the line is 0
    return density * ((line.a * threshold + line.b) ** 2 - low**2) / (2.0 * line.a)
