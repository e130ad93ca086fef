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

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..lm.errors import EngineError

__all__ = ["Estimator", "estimator", "expected", "sampled"]

Row = NDArray[np.float32]
Floats = NDArray[np.float64]

Estimator = Callable[[Row, int, Floats, Floats], float]
"""(logits (V,), draft id, theta uniforms (K,), perturb uniforms (K,)) -> u in [0, 1]."""

HEAD_CUTS = (8.0, 4.0, 2.0, 1.0)
"""How far below the maximum the head may reach, in nats: the first that keeps it small is used."""

HEAD_LIMIT = 512
"""How many ids the head may hold: it costs K exps per id."""

NODES = np.array([0.25, 0.5, 0.75, 1.0])
"""The values of b at which the tail is summed."""

SLACK = 2e-5
"""Bound on the relative error of a float32 sum over the tail (blocks of `BLOCK` terms)."""

BLOCK = 4096
"""Terms per dot product: short sums lose few digits, and BLAS starts no threads for them."""

TINY = 1e-30
"""Added to each sum over the tail, so that it has a logarithm. S is at least 1."""

SMALLEST_THETA = 1e-200
"""Stands for theta = 0: the softmax is then even over the ids that share the maximum."""


class _Split(NamedTuple):
    """A row of logits as head and tail, all relative to the row's maximum."""

    draft: float  # y_d, nats, at most 0
    head: Floats  # y of the head, (n,)
    quarter: Row  # y / 4 of the tail, (V padded to blocks,); -inf in the head and the padding
    cut: float  # every y of the tail is at most -cut


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
    weight = np.exp(beta * split.draft)
    head = _head_sums(split, beta)
    lower, upper = _tail_bounds(split, beta)
    differs: NDArray[np.bool_] = perturb_uniforms * (head + lower) > weight
    agrees = perturb_uniforms * (head + upper) <= weight
    for k in np.flatnonzero(~(differs | agrees)):
        total = head[k] + _tail_sum(split, beta[k])
        differs[k] = perturb_uniforms[k] * total > weight[k]
    return float(np.count_nonzero(differs)) / len(beta)


def expected(logits: Row, draft: int, points: int = 20) -> float:
    """Return E[u] = 1/2 integral_0^2 (1 - softmax(z/theta)[draft]) dtheta: no draws, no noise.

    The midpoint rule with `points` values of theta. `logits` is (V,), float32.

    Raises:
        EngineError: as `sampled`.
    """
    beta = points / (2.0 * np.arange(points) + 1.0)
    split = _split(logits, draft)
    weight = np.exp(beta * split.draft)
    head = _head_sums(split, beta)
    total = head + np.array([_tail_sum(split, b) for b in beta])
    return float(1.0 - (weight / total).mean())


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
    if not np.isfinite(top):
        raise EngineError(f"the logits have no softmax: their maximum is {top}")
    for cut in HEAD_CUTS:
        threshold = np.float32(top - cut)
        ids = np.flatnonzero(z >= threshold)
        if len(ids) <= HEAD_LIMIT:
            cut = top - float(threshold)
            break
    else:
        cut, ids = 0.0, ids[:0]
    quarter = np.full(-(-len(z) // BLOCK) * BLOCK, -np.inf, dtype=np.float32)
    inside = quarter[: len(z)]
    np.multiply(z, np.float32(0.25), out=inside)  # first, so that the next step cannot overflow
    inside -= np.float32(0.25 * top)
    inside[ids] = -np.inf
    return _Split(float(z[draft]) - top, z[ids] - np.float64(top), quarter, cut)


def _head_sums(split: _Split, beta: Floats) -> Floats:
    """Exact S over the head for each b, shape (K,)."""
    sums: Floats = np.exp(beta[:, None] * split.head).sum(axis=1)
    return sums


def _tail_bounds(split: _Split, beta: Floats) -> tuple[Floats, Floats]:
    """Lower and upper bounds on S over the tail for each b >= 1/4, shapes (K,)."""
    a = np.exp(split.quarter).reshape(-1, BLOCK)
    a2 = a * a
    ones = np.ones(BLOCK, dtype=np.float32)
    products = np.vecdot(a, ones), np.vecdot(a, a), np.vecdot(a2, a), np.vecdot(a2, a2)
    sums = np.array([product.sum(dtype=np.float64) for product in products])
    at = np.log(sums + TINY)
    # Four lines: three chords, and from b = 1 on the steepest that log S may be, for no y exceeds
    # -cut. Each is above log S on its own stretch of b and below it everywhere else.
    slopes = np.append(4.0 * np.diff(at), -split.cut)
    away = beta - NODES[:, None]
    lines = at[:, None] + slopes[:, None] * away
    own = np.minimum(4.0 * beta, 4.0).astype(np.intp) - 1, np.arange(len(beta))
    upper = np.exp(lines[own] + SLACK)
    lines -= SLACK * (1.0 + 8.0 * np.abs(away))  # an error at the nodes grows along the line
    lines[own] = -np.inf
    return np.exp(lines.max(axis=0)), upper


def _tail_sum(split: _Split, beta: float) -> float:
    """S over the tail, summed in full in float32 (relative error about 1e-6)."""
    with np.errstate(over="ignore"):
        exponents = split.quarter * np.float32(min(4.0 * beta, 1e30))
    return float(np.exp(exponents, out=exponents).sum())
