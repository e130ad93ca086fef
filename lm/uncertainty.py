"""How unsure the device model is of the token it has just drafted (arXiv 2412.12687).

With logits z and draft d, draw theta_k ~ Uniform(0, 2) and d_k ~ softmax(z / theta_k) for
k = 1..K. The uncertainty is u = (1/K) sum_k 1[d_k != d]. It needs no second forward pass.

Only whether d_k differs from d matters, so a draw is a comparison: with a uniform U_k, d_k
differs exactly when U_k > softmax(z / theta_k)[d]. With b = 1 / theta (at least 1/2),
y = z - max z and S(b) = sum_i exp(b y_i) that reads U_k S(b_k) > exp(b_k y_d), and bounds on S
decide it nearly always. So S is summed exactly over the *head*, the few logits near the maximum,
and only bounded over the *tail*: log S falls and is convex in b, so between two values of b
it lies below the chord and above the neighbouring chords carried on. One exp over the
vocabulary, a = exp(y / 4), gives the tail at b = 1/4, 1/2, 3/4 and 1 by a square and dot products.
What stays undecided is summed in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..common.errors import EngineError
from .row import ONES, Row, total

Floats = NDArray[np.float64]

Estimator = Callable[[Row, int, Floats, Floats], float]
"""(row, draft id, theta uniforms (K,), perturb uniforms (K,)) -> u in [0, 1]."""

SLACK = 5e-5
"""Bound on the relative error of a sum over the tail: float32 exps, products, `BLOCK` terms."""

TINY = 1e-30
"""Added to each sum over the tail, so that it has a logarithm. S is at least 1."""

SMALLEST_THETA = 1e-200
"""Stands for theta = 0: the softmax is then even over the ids that share the maximum."""

FROM_NODES = np.linalg.inv(np.vander(np.arange(3, 9) / 8.0))
"""Polynomial coefficients, highest power first, from values at b = 3/8, 4/8, ..., 1."""

TOLERANCE = 1e-3
"""Guaranteed error of `expected` against its midpoint rule; it is rarely a tenth of that."""


def sampled(row: Row, draft: int, theta_uniforms: Floats, perturb_uniforms: Floats) -> float:
    """Return u = (1/K) sum_k 1[d_k != draft], as published.

    Args:
        row: raw logits of the device model.
        draft: the drafted id.
        theta_uniforms: shape (K,), in [0, 1); theta_k is twice that.
        perturb_uniforms: shape (K,), in [0, 1); d_k differs when it exceeds softmax(z/theta_k)[d].

    Raises:
        EngineError: the draft is not an id.
    """
    beta = 1.0 / np.maximum(2.0 * theta_uniforms, SMALLEST_THETA)
    weight, head = _weight_and_head(row, draft, beta)
    # The chord from b = 1/2 to 1, and level from there on: decides nearly every draw.
    half, one = math.log(row.tail_sum(2) + TINY), math.log(row.tail_sum(4) + TINY)
    slope = 2.0 * (one - half)
    most = np.exp(np.minimum(beta, 1.0) * slope + (half - 0.5 * slope + SLACK))
    differs = perturb_uniforms * head > weight
    agrees = perturb_uniforms * (head + most) <= weight
    count = int(np.count_nonzero(differs))
    unsure = (differs == agrees).nonzero()[0]
    if len(unsure):
        count += _count_differing(
            row, beta[unsure], perturb_uniforms[unsure], _at(weight, unsure), _at(head, unsure)
        )
    return count / len(beta)


def _count_differing(
    row: Row, beta: Floats, uniforms: Floats, weight: Floats | float, head: Floats | float
) -> int:
    """How many U_k S(b_k) exceed the weight, by close bounds, and by whole sums where they fail."""
    lower, upper = _bounds(beta, _quarters(row), 4, row.head[1])
    differs: NDArray[np.bool_] = uniforms * (head + np.exp(lower)) > weight
    agrees = uniforms * (head + np.exp(upper)) <= weight
    count = int(np.count_nonzero(differs))
    for k in (differs == agrees).nonzero()[0]:
        total = _at(head, k) + float(row.tail(4, 4.0 * beta[k]).sum())
        count += bool(uniforms[k] * total > _at(weight, k))
    return count


def expected(row: Row, draft: int, points: int = 20) -> float:
    """Return E[u] = 1/2 integral_0^2 (1 - softmax(z/theta)[draft]) dtheta: no draws, no noise.

    The midpoint rule with `points` values of theta, the tail of each interpolated between its
    bounds.

    Raises:
        EngineError: the draft is not an id.
    """
    beta = points / (2.0 * np.arange(points) + 1.0)
    weight, head = _weight_and_head(row, draft, beta)
    nodes = _eighths(row)
    lower, upper = _bounds(beta, nodes, 8, row.head[1])
    tail = np.exp(np.minimum(np.maximum(_interpolate(beta, nodes), lower), upper))
    least, most = weight / (head + np.exp(upper)), weight / (head + np.exp(lower))
    softmax = weight / (head + tail)
    error = np.maximum(most - softmax, softmax - least)
    while error.sum() > TOLERANCE * points:
        k = int(error.argmax())
        softmax[k] = _at(weight, k) / (_at(head, k) + float(row.tail(4, 4.0 * beta[k]).sum()))
        error[k] = 0.0
    return 1.0 - float(softmax.sum()) / points


def estimator(name: Literal["sampled", "expected"]) -> Estimator:
    """Return the estimator of that name, for the generation loop to call once per draft."""
    if name == "sampled":
        return sampled
    return lambda row, draft, theta_uniforms, perturb_uniforms: expected(row, draft)


def _weight_and_head(row: Row, draft: int, beta: Floats) -> tuple[Floats | float, Floats | float]:
    """Return exp(b y_draft) and S over the head for each b, shapes (K,), in float64.

    Where the draft is the whole head, both are 1 for any b.
    """
    if not 0 <= draft < len(row):
        raise EngineError(f"draft id {draft} is outside the vocabulary of {len(row)} ids")
    ids = row.head[0]
    if len(ids) == 1 and draft == row.best:
        return 1.0, 1.0
    weight: Floats = np.exp(beta * (float(row.logits[draft]) - row.peak))
    y = row.logits[ids] - np.float64(row.peak)
    head: Floats = np.exp(beta[:, None] * y).sum(axis=1)
    return weight, head


def _at(values: Floats | float, k: Any) -> Any:
    """Entries of what may be the same for all k."""
    return values if isinstance(values, float) else values[k]


def _quarters(row: Row) -> Floats:
    """Return log S over the tail at b = 1/4, 1/2, 3/4, 1."""
    logs: Floats = np.log(np.array([row.tail_sum(m) for m in (1, 2, 3, 4)]) + TINY)
    return logs


def _eighths(row: Row) -> Floats:
    """Return log S over the tail at b = 3/8, 4/8, ..., 1: one exp, then products only."""
    a = row.tail(8)
    powers = [ONES, a]
    while len(powers) <= 4:
        powers.append(powers[-1] * a)
    sums = [total(powers[m // 2], powers[m - m // 2]) for m in range(3, 9)]
    logs: Floats = np.log(np.array(sums) + TINY)
    return logs


def _bounds(beta: Floats, nodes: Floats, root: int, cut: float) -> tuple[Floats, Floats]:
    """Return bounds on log S over the tail for each b >= 1/2, shapes (K,).

    `nodes` is log S at b = ..., 1 in steps of 1 / root. The line through two neighbours is above
    log S between them and below it everywhere else; so is, from b = 1 on, the line of slope -cut,
    for no y of the tail exceeds -cut. So at any b the highest line is above, the next one below.
    """
    first = root + 1 - len(nodes)
    slopes = np.empty(len(nodes))
    np.subtract(nodes[1:], nodes[:-1], out=slopes[:-1])
    slopes *= root
    slopes[-1] = -cut
    starts = np.arange(first, root + 1) / root
    lines = nodes + slopes * (beta[:, None] - starts)
    lines.sort(axis=1)
    # An error at two nodes grows with the distance along the line through them.
    return lines[:, -2] - SLACK * (1.0 + 2.0 * root * beta), lines[:, -1] + SLACK


def _interpolate(beta: Floats, nodes: Floats) -> Floats:
    """Return the polynomial through the nodes of `expected` (b = 3/8, 4/8, ..., 1) at each b."""
    value = np.zeros_like(beta)
    for coefficient in FROM_NODES @ nodes:
        value = value * beta + coefficient
    return value
