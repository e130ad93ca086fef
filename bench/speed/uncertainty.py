"""What u costs: the plain way against `lm/uncertainty.py`, on real and on flat rows.

Rules of the figures:
- One thread. On each row all ways are timed in turn with the same uniforms, so that a change of
  clock or a busy neighbour meets all of them. The uniforms are drawn outside the timed part.
- Each way is called on a row once after other data has swept the caches, as a model's weights do
  between two tokens (`us_cold`), then `repeats` times warm: the other figures are of these.
- `plain` is the definition (arXiv 2412.12687): per draw a float64 softmax of z / theta and a token
  from it by its cumulative sum. `one_shot` is a float32 softmax over a (K, V) array.
- Agreement is the share of u equal to that of the same comparisons in float64, draw by draw.
- Real rows come from a model; larger vocabularies are imitated by `stretch`. Flat rows are standard
  normal, as from random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ...common.errors import UsageError
from ...lm.row import Logits, Row
from ...lm.uncertainty import expected, sampled

Floats = NDArray[np.float64]

DRAWS = 20
"""K, as published."""

SWEEP = 16 * 2**20
"""Float32 values, 64 MB: more than the caches of a device hold."""


class Cost(TypedDict):
    """The cost of one way to get u, over `n` timed calls."""

    vocab: int
    rows: str  # "real" or "flat"
    way: str  # "plain", "one_shot", "sampled" or "expected"
    n: int
    us: float  # median, microseconds
    us_p10: float
    us_p90: float
    us_cold: float  # median with cold caches
    ratio: float  # of the medians: plain / this
    agreement: float | None  # share of u equal to the float64 comparisons; None where not drawn so
    error: float | None  # largest difference from float64: comparisons, or the midpoint rule


def measure(
    real_rows: Logits,
    vocab_sizes: Sequence[int] = (8_192, 32_000, 151_936),
    rows: int = 20,
    repeats: int = 5,
    seed: int = 0,
) -> list[Cost]:
    """Time each way on `rows` real and `rows` flat rows per vocabulary, 1 + `repeats` times each.

    Args:
        real_rows: logits of a device model, shape (n, V0), float32; `rows` of them are drawn.
        vocab_sizes: none below V0.
        rows: how many rows of each kind.
        repeats: how many times each row is used, with fresh uniforms.
        seed: of the choice of rows, the stretching, the drafts and the uniforms.

    Raises:
        UsageError: there is nothing to measure, or a vocabulary is smaller than V0.
    """
    if real_rows.ndim != 2 or not real_rows.size or rows < 1 or repeats < 1:
        raise UsageError("measuring u needs at least one row of logits, one row and one repeat")
    rng = np.random.default_rng(seed)
    chosen = real_rows[rng.integers(len(real_rows), size=rows)]
    costs = []
    for vocab in vocab_sizes:
        real = [stretch(row, vocab, rng) for row in chosen]
        costs += _measure_rows("real", real, repeats, rng)
        flat = [rng.standard_normal(vocab, dtype=np.float32) for _ in range(rows)]
        costs += _measure_rows("flat", flat, repeats, rng)
    return costs


def _measure_rows(
    kind: str, rows: list[Logits], repeats: int, rng: np.random.Generator
) -> list[Cost]:
    ways: dict[str, Callable[[Logits, int, Floats, Floats], float]] = {
        "plain": plain,
        "one_shot": one_shot,
        "sampled": lambda logits, draft, theta, perturb: sampled(
            Row(logits), draft, theta, perturb
        ),
        "expected": lambda logits, draft, theta, perturb: expected(Row(logits), draft),
    }
    times: dict[str, list[int]] = {way: [] for way in ways}
    cold: dict[str, list[int]] = {way: [] for way in ways}
    errors: dict[str, list[float]] = {way: [] for way in ways}
    sweep = np.ones(SWEEP, dtype=np.float32)
    for row in rows:
        draft = int(rng.choice(len(row), p=_softmax(row, 1.0)))
        mean = midpoints(row, draft, DRAWS)
        uniforms = [(rng.random(DRAWS), rng.random(DRAWS)) for _ in range(1 + repeats)]
        drawn = [compared(row, draft, *pair) for pair in uniforms]
        for way, u_of in ways.items():
            sweep.sum()
            for turn, (theta, perturb) in enumerate(uniforms):
                start = perf_counter_ns()
                u = u_of(row, draft, theta, perturb)
                (times if turn else cold)[way].append(perf_counter_ns() - start)
                errors[way].append(abs(u - (mean if way == "expected" else drawn[turn])))
    costs = []
    plain_us = float(np.median(times["plain"])) / 1e3
    for way in ways:
        p10, median, p90 = np.percentile(times[way], [10, 50, 90]) / 1e3
        error = np.array(errors[way])
        costs.append(
            Cost(
                vocab=len(rows[0]),
                rows=kind,
                way=way,
                n=len(times[way]),
                us=float(median),
                us_p10=float(p10),
                us_p90=float(p90),
                us_cold=float(np.median(cold[way])) / 1e3,
                ratio=plain_us / float(median),
                agreement=float((error == 0).mean()) if way in ("one_shot", "sampled") else None,
                error=None if way == "plain" else float(error.max()),
            )
        )
    return costs


def plain(logits: Logits, draft: int, theta_uniforms: Floats, perturb_uniforms: Floats) -> float:
    """Return u as published: K float64 softmaxes, and a token drawn from each."""
    differs = 0
    for theta, uniform in zip(2.0 * theta_uniforms, perturb_uniforms, strict=True):
        cumulative = np.cumsum(_softmax(logits, theta))
        differs += int(np.searchsorted(cumulative, uniform * cumulative[-1], "right")) != draft
    return differs / len(theta_uniforms)


def compared(logits: Logits, draft: int, theta_uniforms: Floats, perturb_uniforms: Floats) -> float:
    """u from K float64 softmaxes and the comparisons of `sampled`, distributed as that is."""
    differs = 0
    for theta, uniform in zip(2.0 * theta_uniforms, perturb_uniforms, strict=True):
        differs += bool(uniform > _softmax(logits, theta)[draft])
    return differs / len(theta_uniforms)


def one_shot(logits: Logits, draft: int, theta_uniforms: Floats, perturb_uniforms: Floats) -> float:
    """Return u from one float32 softmax over a (K, V) array."""
    beta = (0.5 / theta_uniforms).astype(np.float32)
    weights = beta[:, None] * (logits - logits.max())
    np.exp(weights, out=weights)
    return float((perturb_uniforms > weights[:, draft] / weights.sum(axis=1)).mean())


def midpoints(logits: Logits, draft: int, points: int) -> float:
    """Return E[u] by the midpoint rule over theta in (0, 2), in float64."""
    thetas = (np.arange(points) + 0.5) * 2.0 / points
    return 1.0 - float(np.mean([_softmax(logits, theta)[draft] for theta in thetas]))


def stretch(row: Logits, vocab: int, rng: np.random.Generator) -> Logits:
    """Return `row` with made-up ids added up to `vocab`: the head stays as the model gave it.

    The added logits are drawn from the lower nine tenths of the row, with normal noise of 0.1 so
    that no two are equal: the tail keeps its shape and grows with the vocabulary.

    Raises:
        UsageError: the row is longer than `vocab`.
    """
    if len(row) > vocab:
        raise UsageError(f"a row of {len(row)} logits cannot be stretched to {vocab}")
    low = np.sort(row)[: max(1, len(row) * 9 // 10)]
    added = rng.choice(low, vocab - len(row)) + 0.1 * rng.standard_normal(vocab - len(row))
    return np.concatenate([row, added.astype(np.float32)])


def _softmax(logits: Logits, theta: float) -> Floats:
    y = logits.astype(np.float64) - float(logits.max())
    weights: Floats = np.exp(y / theta)
    weights /= weights.sum()
    return weights
