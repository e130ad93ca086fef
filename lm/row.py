"""The logits after one position, and what sampler, uncertainty and reward head need of them.

A vocabulary is large and a token is short, so nothing is computed twice: a `Row` is made once per
position, and each of its parts once, where it is first asked for.

With y = logits - peak, the vocabulary is split into a *head*, the few ids near the peak, and the
*tail*. Sums over the tail at several temperatures need a single exp over the vocabulary: with
a = exp(y / 4), which belongs to the temperature 4, products of a with itself belong to 2, 4/3, 1
and 1/2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..common.errors import EngineError

Logits = NDArray[np.float32]
"""Raw logits of one position, shape (V,), float32; -inf masks an id."""

HEAD_CUTS = (8.0, 4.0, 2.0, 1.0)
"""How far below the peak the head may reach, in nats: the first that keeps it small is used."""

HEAD_LIMIT = 192
"""How many ids the head may hold: `lm/uncertainty.py` takes K exps of each."""

BLOCK = 8192
"""Terms per dot product: short sums lose few digits, and BLAS starts no threads for them."""

ONES = np.ones((1, BLOCK), dtype=np.float32)
"""What a block is multiplied with to be summed: faster than its sum."""


def total(a: Logits, b: Logits) -> float:
    """The sum of a * b, shapes (blocks, BLOCK); b may be one block for all of a."""
    if len(a) == 1:
        return float(a[0].dot(b[0]))
    return float(np.vecdot(a, b).sum(dtype=np.float64))


class Row:
    """Logits of one position. They must not change while the row is in use.

    Args:
        logits: shape (V,), float32; -inf masks an id.

    Attributes:
        best: the id of the largest logit, the lowest one on a tie.
        peak: that logit.

    Raises:
        EngineError: the logits have no softmax (NaN, +inf, all -inf).
    """

    __slots__ = ("_exps", "_head", "_near", "_sums", "_width", "best", "logits", "peak")

    def __init__(self, logits: Logits) -> None:
        self.logits = logits
        self.best = int(logits.argmax())  # a NaN counts as the largest
        self.peak = float(logits[self.best])
        if not math.isfinite(self.peak):
            raise EngineError("the model gave logits that are not numbers; is its file damaged?")
        self._width = -1.0
        self._near: NDArray[np.intp] | None = None
        self._head: tuple[NDArray[np.intp], float] | None = None
        self._exps: dict[int, Logits] = {}
        self._sums: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.logits)

    def is_crowded(self, width: float, n: int) -> bool:
        """Are more than `n` ids that near, and not listed yet? To list many is dear."""
        if n == 0 or self._near is not None:
            return False
        return int(np.count_nonzero(self.logits >= np.float32(self.peak - width))) > n

    def near(self, width: float) -> NDArray[np.intp]:
        """Ids at most `width` nats below the peak, ascending; all that are not masked if inf."""
        if width == math.inf:
            return (self.logits > -np.inf).nonzero()[0]
        if self._near is None or self._width < width:
            # One scan is for sampler and head: see what is close to the peak in any case.
            self._width = max(width, HEAD_CUTS[0])
            above = self.logits >= np.float32(self.peak - self._width)
            if np.count_nonzero(above) == 1:  # very common, and the list of ids is dear
                self._near = np.array([self.best], dtype=np.intp)
            else:
                self._near = above.nonzero()[0]
        if width == self._width or len(self._near) == 1:
            return self._near
        ids: NDArray[np.intp] = self._near[self.logits[self._near] >= np.float32(self.peak - width)]
        return ids

    @property
    def head(self) -> tuple[NDArray[np.intp], float]:
        """Ids of the head, and how far below the peak the tail begins at least, in nats.

        Empty and 0 where too many ids lie close to the peak.
        """
        if self._head is None:
            self._head = np.empty(0, dtype=np.intp), 0.0
            for cut in HEAD_CUTS:
                ids = self.near(cut)
                if len(ids) <= HEAD_LIMIT:
                    self._head = ids, self.peak - float(np.float32(self.peak - cut))
                    break
        return self._head

    def tail(self, root: int, stretch: float = 1.0) -> Logits:
        """exp(stretch y / root) over the tail, 0 elsewhere, in blocks filled up with 0.

        Args:
            root: a power of two, at least 4: the logits are scaled by it exactly, and cannot
                overflow.
            stretch: factor of the exponents.

        Returns:
            Shape (blocks, BLOCK), float32.
        """
        size = len(self.logits)
        exponents = np.empty((-(-size // BLOCK), BLOCK), dtype=np.float32)
        flat = exponents.reshape(-1)
        flat[size:] = -np.inf
        inside = flat[:size]
        np.multiply(self.logits, np.float32(1.0 / root), out=inside)
        inside -= np.float32(self.peak / root)
        inside[self.head[0]] = -np.inf
        if stretch != 1.0:
            with np.errstate(over="ignore"):
                flat *= np.float32(min(stretch, 1e30))
        return np.exp(exponents, out=exponents)

    def exps(self, quarters: int) -> Logits:
        """exp(quarters y / 4) over the tail as `tail` gives it; `quarters` is 1, 2 or 4."""
        found = self._exps.get(quarters)
        if found is None:
            if quarters == 1:
                found = self.tail(4)
            else:
                root = self.exps(quarters // 2)
                found = root * root
            self._exps[quarters] = found
        return found

    def tail_sum(self, quarters: int) -> float:
        """The sum of exp(quarters y / 4) over the tail; `quarters` is 1, 2, 3, 4 or 8."""
        found = self._sums.get(quarters)
        if found is None:
            larger = 2 if quarters == 3 else max(1, quarters // 2)
            rest = quarters - larger
            found = total(self.exps(larger), self.exps(rest) if rest else ONES)
            self._sums[quarters] = found
        return found
