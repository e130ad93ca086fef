"""How unsure the device model is of the token it has just drafted (arXiv 2412.12687).

With logits z and draft d, draw theta_k ~ Uniform(0, 2) and d_k ~ softmax(z / theta_k) for
k = 1..K. The uncertainty is u = (1/K) sum_k 1[d_k != d]. It needs no second forward pass.

Only whether d_k differs from d matters, so a draw is a comparison: with a uniform U_k, d_k
differs exactly when U_k > softmax(z / theta_k)[d]. With b = 1 / theta (at least 1/2),
y = z - max z and S(b) = sum_i exp(b y_i) that reads U_k S(b_k) > exp(b_k y_d), and bounds on S
decide it nearly always. So S is summed exactly over the *head*, the few logits near the maximum,
and only bounded over the *tail*: log S is convex in b, so between two values of b it lies below
the chord and above the neighbouring chords carried on. One exp over the vocabulary,
a = exp(y / 4), gives the tail at b = 1/4, 1/2, 3/4 and 1 by sums, a square and dot products.
What stays undecided is summed in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.errors import EngineError

__all__ = ["Estimator", "estimator", "expected", "sampled"]

Row = NDArray[np.float32]
Floats = NDArray[np.float64]

Estimator = Callable[[Row, int, Floats, Floats], float]
"""(logits (V,), draft id, theta uniforms (K,), perturb uniforms (K,)) -> u in [0, 1]."""

HEAD_CUTS = (8.0, 4.0, 2.0, 1.0)
"""How far below the maximum the head may reach, in nats: the first that keeps it small is used."""

HEAD_LIMIT = 192
"""How many ids the head may hold: it costs K exps per id."""

SLACK = 5e-5
"""Bound on the relative error of a sum over the tail: float32 exps, products, `BLOCK` terms."""

BLOCK = 4096
"""Terms per dot product: short sums lose few digits, and BLAS starts no threads for them."""

ONES = np.ones(BLOCK, dtype=np.float32)
"""What a block is multiplied with to be summed: faster than its sum."""

TINY = 1e-30
"""Added to each sum over the tail, so that it has a logarithm. S is at least 1."""

SMALLEST_THETA = 1e-200
"""Stands for theta = 0: the softmax is then even over the ids that share the maximum."""

FROM_NODES = np.linalg.inv(np.vander(np.arange(3, 9) / 8.0))
"""Polynomial coefficients, highest power first, from values at b = 3/8, 4/8, ..., 1."""

TOLERANCE = 1e-3
"""Guaranteed error of `expected` against its midpoint rule; it is rarely a tenth of that."""


class _Split(NamedTuple):
    """A row of logits, split into a head and a tail."""

    logits: Row  # (V,)
    top: float  # their maximum
    head: NDArray[np.intp]  # ids
    cut: float  # the tail lies at least this far below the maximum, nats


def sampled(logits: Row, draft: int, theta_uniforms: Floats, perturb_uniforms: Floats) -> float:
    """Return u = (1/K) sum_k 1[d_k != draft], as published.

    Args:
        logits: raw logits of the device model, shape (V,), float32; -inf masks an id.
        draft: the drafted id.
        theta_uniforms: shape (K,), in [0, 1); theta_k is twice that.
        perturb_uniforms: shape (K,), in [0, 1); d_k differs when it exceeds softmax(z/theta_k)[d].

    Raises:
        EngineError: the logits have no softmax (NaN, +inf, all -inf), or the draft is not an id.
    """
    beta = 1.0 / np.maximum(2.0 * theta_uniforms, SMALLEST_THETA)
    split = _split(logits, draft)
    weight, head = _weight_and_head(split, draft, beta)
    lower, upper = _bounds(beta, _tail_nodes(split, 4, 1), 4, split.cut)
    differs: NDArray[np.bool_] = perturb_uniforms * (head + np.exp(lower)) > weight
    agrees = perturb_uniforms * (head + np.exp(upper)) <= weight
    for k in (differs == agrees).nonzero()[0]:  # neither: decided by the whole sum
        total = head[k] + float(_tail(split, 4, 4.0 * beta[k]).sum())
        differs[k] = perturb_uniforms[k] * total > weight[k]
    return int(differs.sum()) / len(beta)


def expected(logits: Row, draft: int, points: int = 20) -> float:
    """Return E[u] = 1/2 integral_0^2 (1 - softmax(z/theta)[draft]) dtheta: no draws, no noise.

    The midpoint rule with `points` values of theta, the tail of each interpolated between its
    bounds. `logits` is (V,), float32.

    Raises:
        EngineError: as `sampled`.
    """
    beta = points / (2.0 * np.arange(points) + 1.0)
    split = _split(logits, draft)
    weight, head = _weight_and_head(split, draft, beta)
    nodes = _tail_nodes(split, 8, 3)
    lower, upper = _bounds(beta, nodes, 8, split.cut)
    tail = np.exp(np.minimum(np.maximum(_interpolate(beta, nodes), lower), upper))
    least, most = weight / (head + np.exp(upper)), weight / (head + np.exp(lower))
    softmax = weight / (head + tail)
    error = np.maximum(most - softmax, softmax - least)
    while error.sum() > TOLERANCE * points:
        k = int(error.argmax())
        softmax[k] = weight[k] / (head[k] + float(_tail(split, 4, 4.0 * beta[k]).sum()))
        error[k] = 0.0
    return 1.0 - float(softmax.sum()) / points


def estimator(name: Literal["sampled", "expected"]) -> Estimator:
    """Return the estimator of that name, for the generation loop to call once per draft."""
    if name == "sampled":
        return sampled
    return lambda logits, draft, theta_uniforms, perturb_uniforms: expected(logits, draft)


def _split(logits: Row, draft: int) -> _Split:
    z = np.asarray(logits, dtype=np.float32)
    if not 0 <= draft < len(z):
        raise EngineError(f"draft id {draft} is outside the vocabulary of {len(z)} ids")
    top = float(z.max())  # NaN if any is
    if not math.isfinite(top):
        raise EngineError(f"the logits have no softmax: their maximum is {top}")
    for cut in HEAD_CUTS:
        threshold = np.float32(top - cut)
        near = z >= threshold
        if np.count_nonzero(near) <= HEAD_LIMIT:
            return _Split(z, top, near.nonzero()[0], top - float(threshold))
    return _Split(z, top, np.empty(0, dtype=np.intp), 0.0)


def _weight_and_head(split: _Split, draft: int, beta: Floats) -> tuple[Floats, Floats]:
    """Return exp(b y_draft) and S over the head for each b, shapes (K,), in float64."""
    y = split.logits[split.head] - np.float64(split.top)
    weight: Floats = np.exp(beta * (float(split.logits[draft]) - split.top))
    head: Floats = np.exp(beta[:, None] * y).sum(axis=1)
    return weight, head


def _tail(split: _Split, root: int, stretch: float = 1.0) -> Row:
    """Return exp(stretch y / root) over the tail, in blocks filled up with 0: (blocks, BLOCK).

    `root` is a power of two, at least 4: the logits are scaled by it exactly, and cannot overflow.
    """
    size = len(split.logits)
    exponents = np.empty((-(-size // BLOCK), BLOCK), dtype=np.float32)
    flat = exponents.reshape(-1)
    flat[size:] = -np.inf
    inside = flat[:size]
    np.multiply(split.logits, np.float32(1.0 / root), out=inside)
    inside -= np.float32(split.top / root)
    inside[split.head] = -np.inf
    if stretch != 1.0:
        with np.errstate(over="ignore"):
            flat *= np.float32(min(stretch, 1e30))
    return np.exp(exponents, out=exponents)


def _tail_nodes(split: _Split, root: int, first: int) -> Floats:
    """Return log S over the tail at b = first/root, ..., 1: one exp, then products only."""
    a = _tail(split, root)
    powers = [ONES, a]
    while len(powers) <= root // 2:
        powers.append(powers[-1] * a)
    sums = np.empty((root + 1 - first, len(a)), dtype=np.float32)
    for m in range(first, root + 1):
        np.vecdot(powers[m // 2], powers[m - m // 2], out=sums[m - first])
    logs: Floats = np.log(sums.sum(axis=1, dtype=np.float64) + TINY)
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
