"""How far a quantised model is from its original, and what that does to the pair. Pure functions.

Rows are logits, shape (n, V), float32, at the same n positions of the same text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...lm.row import Row
from ...lm.uncertainty import expected

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]

_MOST = 1 << 22
"""Elements of a block of rows that are widened to float64 at once."""


def log_softmax(rows: Rows) -> Floats:
    """Log-probabilities of each row, float64."""
    wide = rows.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def expected_uncertainty(rows: Rows, drafts: NDArray[np.intp]) -> Floats:
    """E[u] of arXiv 2412.12687 for each row and its draft, shape (n,)."""
    return np.array([expected(Row(row), int(d)) for row, d in zip(rows, drafts, strict=True)])


@dataclass
class Tally:
    """Sums over positions; `add` takes more of them, the properties are the results so far."""

    kl: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    same_top: list[bool] = field(default_factory=list)
    acceptance: list[float] = field(default_factory=list)
    u: list[float] = field(default_factory=list)
    beta: list[float] = field(default_factory=list)

    def add(
        self,
        original: Rows,
        quantised: Rows,
        targets: NDArray[np.intp],
        uniforms: Floats,
        cloud: Rows | None = None,
    ) -> None:
        """Take positions into account.

        Args:
            original: rows of the original.
            quantised: rows of the quantised model.
            targets: the id that follows in the text, shape (n,).
            uniforms: in [0, 1), shape (n,), for drawing the draft that u and beta belong to.
            cloud: rows of the cloud model; without them the pair is not measured.
        """
        step = max(1, _MOST // original.shape[1])
        for at in range(0, len(original), step):
            part = slice(at, at + step)
            rows = None if cloud is None else cloud[part]
            self._add(original[part], quantised[part], targets[part], uniforms[part], rows)

    def _add(
        self,
        original: Rows,
        quantised: Rows,
        targets: NDArray[np.intp],
        uniforms: Floats,
        cloud: Rows | None,
    ) -> None:
        before, after = log_softmax(original), log_softmax(quantised)
        each = np.arange(len(targets))
        self.kl += (np.exp(before) * (before - after)).sum(axis=-1).tolist()
        self.loss += (-after[each, targets]).tolist()
        self.same_top += (before.argmax(axis=-1) == after.argmax(axis=-1)).tolist()
        if cloud is None:
            return
        p, q = np.exp(log_softmax(cloud)), np.exp(after)
        self.acceptance += np.minimum(p, q).sum(axis=-1).tolist()
        cdf = q.cumsum(axis=-1)
        drafts = (cdf <= uniforms[:, None] * cdf[:, -1:]).sum(axis=-1).clip(max=q.shape[1] - 1)
        ratio = p[each, drafts] / np.maximum(q[each, drafts], 1e-300)
        self.beta += np.maximum(0.0, 1.0 - ratio).tolist()
        self.u += expected_uncertainty(quantised, drafts).tolist()

    @property
    def positions(self) -> int:
        return len(self.kl)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss per id."""
        return float(np.exp(np.mean(self.loss)))

    @property
    def kl_mean(self) -> float:
        """Mean Kullback-Leibler divergence of the quantised from the original, in nats."""
        return max(0.0, float(np.mean(self.kl)))

    @property
    def kl_p99(self) -> float:
        """Its 99th percentile."""
        return max(0.0, float(np.percentile(self.kl, 99)))

    @property
    def top1(self) -> float:
        """Share of positions with the same most likely id."""
        return float(np.mean(self.same_top))

    @property
    def acceptance_mean(self) -> float | None:
        """Mean of sum min(p, q): how often the cloud model accepts a draft."""
        return float(np.mean(self.acceptance)) if self.acceptance else None

    @property
    def correlation(self) -> float | None:
        """Of u and beta over positions; None where one of them does not vary."""
        if len(self.u) < 2 or not (np.std(self.u) and np.std(self.beta)):
            return None
        return float(np.corrcoef(self.u, self.beta)[0, 1])
