"""From logits to distributions, and the rule of speculative sampling. Pure functions.

Two kinds of distribution occur. The device's q is sparse and rounded (`Distribution`): what is
sampled from, sent, and verified against are the same integers, so nothing is approximated. The
LLM's p is the full softmax in float64 under the same sampler, never cut or rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .row import Row

_SPAN = 12.5  # nats below the peak: a quarter of the smallest weight
_GROUP = 16  # logits whose peak is taken together
_CROWD = 2 * _GROUP  # times as many ids as wanted, from which groups pay; there are enough then
_COLDEST = 1e-4  # temperature: differences of logits in float32 stop counting about there
TOTAL = 1 << 16
"""What the integer weights of a Distribution sum to."""

_ALL = np.array([TOTAL], dtype=np.int64)
_ALL.flags.writeable = False

Probs = NDArray[np.float64]
"""A distribution over the whole vocabulary, shape (V,), float64, sums to 1."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """A sparse distribution: `weights[i] / TOTAL` is the probability of `ids[i]`.

    Shapes: ids (n,) int64, ascending; weights (n,) int64, each at least 1, sum TOTAL.
    """

    ids: NDArray[np.int64]
    weights: NDArray[np.int64]

    def weight(self, token: int) -> int:
        """The weight of `token`, 0 if it is not among the ids."""
        i = int(self.ids.searchsorted(token))
        return int(self.weights[i]) if i < len(self.ids) and self.ids[i] == token else 0

    def draw(self, u: float) -> int:
        """Inverse CDF in id order at the uniform `u`."""
        if len(self.ids) == 1:
            return int(self.ids[0])
        i = int(self.weights.cumsum().searchsorted(int(u * TOTAL), side="right"))
        return int(self.ids[i])

    @property
    def best(self) -> int:
        """The most likely id, the lowest one on a tie."""
        return int(self.ids[self.weights.argmax()])

    def probs(self, n_vocab: int) -> Probs:
        """The same distribution as a dense vector, shape (n_vocab,), float64."""
        dense = np.zeros(n_vocab)
        dense[self.ids] = self.weights / TOTAL
        return dense

    @staticmethod
    def certain(token: int) -> Distribution:
        """All the probability on one id."""
        return Distribution(np.array([token], dtype=np.int64), _ALL)

    @staticmethod
    def rounded(ids: NDArray[np.int64], mass: Probs) -> Distribution:
        """Round the distribution proportional to `mass` at the ascending `ids`.

        The cumulative sum is rounded, not the parts, so the weights sum to TOTAL by construction
        and each is off by less than one.
        """
        cdf = mass.cumsum()
        edges = np.rint(cdf / cdf[-1] * TOTAL).astype(np.int64)
        weights = edges.copy()
        weights[1:] -= edges[:-1]  # np.diff(edges, prepend=0) takes seven times as long
        kept = weights > 0
        if kept.all():
            return Distribution(ids, weights)
        return Distribution(ids[kept], weights[kept])


@dataclass(frozen=True, eq=False)
class Sparse:
    """A p that its sampler leaves few ids: the numbers of the dense vector, without its zeros.

    Shapes: ids (n,) int64, ascending; probs (n,) float64, sums to 1.
    """

    ids: NDArray[np.int64]
    probs: Probs

    def __getitem__(self, token: int) -> float:
        i = int(self.ids.searchsorted(token))
        return float(self.probs[i]) if i < len(self.ids) and self.ids[i] == token else 0.0

    def dense(self, n_vocab: int) -> Probs:
        """The vector, shape (n_vocab,), float64."""
        dense = np.zeros(n_vocab)
        dense[self.ids] = self.probs
        return dense


class Sampler(BaseModel):
    """How logits become a distribution. Both sides apply the same one.

    Order: temperature, top-k, top-p, min-p, each on what the one before left, as servers of large
    models do it. Off: top_k=0, top_p=1, min_p=0. Temperatures
    below 1e-4 are greedy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(0.6, ge=0.0, le=100.0)
    top_k: int = Field(40, ge=0)
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    min_p: float = Field(0.0, ge=0.0, le=1.0)

    @property
    def greedy(self) -> bool:
        """Is only the most likely id left? So it is at temperatures where float32 sees nothing."""
        return self.temperature < _COLDEST

    def probs(self, row: Row) -> Probs:
        """The full-support distribution of a row under this sampler, shape (V,), float64."""
        p = self.unrounded(row)
        return p.dense(len(row)) if isinstance(p, Sparse) else p

    def unrounded(self, row: Row) -> Probs | Sparse:
        """The same, sparse unless the sampler leaves the whole vocabulary."""
        if self.greedy:
            return Sparse(np.array([row.best], dtype=np.int64), np.ones(1))
        if self.top_k == 0 and self.top_p >= 1.0 and self.min_p <= 0.0:
            mass = self._mass(row, row.logits)
            mass /= mass.sum()
            return mass
        ids, part = self.support(row)
        part /= part.sum()
        return Sparse(ids, part)

    def distribution(self, row: Row, wire_top: int = 64) -> Distribution:
        """The sparse, rounded distribution of a row: at most `wire_top` ids."""
        if self.greedy or len(row.near(self.temperature * _SPAN)) == 1:
            return Distribution.certain(row.best)
        return Distribution.rounded(*self.support(row, wire_top))

    def support(self, row: Row, limit: int = 0) -> tuple[NDArray[np.int64], Probs]:
        """The ids that the sampler leaves, ascending, and their unnormalised mass.

        Args:
            row: the logits.
            limit: at most this many ids, the most likely ones, and none so unlikely that rounding
                would leave nothing of it; 0 for no limit.

        Returns:
            ids (n,) int64 and mass (n,) float64, the largest mass being 1.

        Top-p refers to the mass that top-k left, so without top-k the whole vocabulary counts.
        """
        caps = [c for c in (self.top_k, limit) if c]
        ids = _largest(row, min(caps, default=0), self.temperature * _SPAN * bool(limit))
        mass = self._mass(row, row.logits[ids])
        if self.top_p < 1.0:
            if self.top_k == 0:
                total = float(self._mass(row, row.logits).sum())
            elif 0 < limit < self.top_k:
                top = _largest(row, self.top_k)
                total = float(self._mass(row, row.logits[top]).sum())
            else:
                total = float(mass.sum())
            order = np.argsort(-mass, kind="stable")
            before = np.cumsum(mass[order]) - mass[order]
            keep = order[before < self.top_p * total]
            keep.sort()
            ids, mass = ids[keep], mass[keep]
        if self.min_p > 0.0:
            keep = np.flatnonzero(mass >= self.min_p)  # the largest mass is 1
            ids, mass = ids[keep], mass[keep]
        return ids, mass

    def _mass(self, row: Row, logits: NDArray[np.float32]) -> Probs:
        """exp((logits - peak) / temperature) in float64."""
        mass: Probs = np.subtract(logits, row.peak, dtype=np.float64)
        mass /= self.temperature
        return np.exp(mass, out=mass)


def _largest(row: Row, n: int, span: float = 0.0) -> NDArray[np.int64]:
    """Ids of the `n` largest logits (0: of all that are finite), ascending.

    With a `span`, those lower than the peak by more than that may be missing.
    """
    if n == 1:
        return np.array([row.best], dtype=np.int64)
    # A scan for what is near the peak is far cheaper than a partition of everything, and nearly
    # always leaves enough, and not too many.
    width = span or (12.0 if n else math.inf)
    if row.is_crowded(width, n * _CROWD):
        near = (row.logits >= _floor(row.logits, n)).nonzero()[0]
    else:
        near = row.near(width)
        if not span and len(near) < n:
            near = row.near(math.inf)
    if 0 < n < len(near):
        near = near[np.argpartition(row.logits[near], len(near) - n)[len(near) - n :]]
        near.sort()
    return near


def _floor(logits: NDArray[np.float32], n: int) -> np.float32:
    """A number that at least `n` logits reach, and not many more: far cheaper than a partition.

    The n-th largest of the peaks of groups: each of n groups has one that is as large.
    """
    groups = len(logits) // _GROUP
    peaks = logits[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
    return np.float32(np.partition(peaks, groups - n)[groups - n])


def one_hot(token: int, n_vocab: int) -> Probs:
    """All the probability on one id, shape (n_vocab,)."""
    probs = np.zeros(n_vocab)
    probs[token] = 1.0
    return probs


def rejection(p: float, q: float) -> float:
    """beta = max(0, 1 - p/q): how likely a draft of probability `q` is rejected under `p`."""
    return max(0.0, 1.0 - p / q)


def accept(p: float, q: float, u: float) -> bool:
    """Accept a draft with probability min(1, p/q), decided by the uniform `u` in [0, 1)."""
    return u * q < p


def resample(p: Probs | Sparse, q: Distribution | None, u: float) -> int:
    """Draw from norm(max(0, p - q)) by inverse CDF in id order; from p itself if q is None.

    If nothing is left (p = q up to rounding), a rejection cannot have happened for real, and p is
    drawn from.
    """
    if isinstance(p, Sparse):
        mass = p.probs
        if q is not None:
            at = q.ids.searchsorted(p.ids)
            at[at == len(q.ids)] = 0
            shared = q.ids[at] == p.ids
            mass = np.where(shared, np.maximum(mass - q.weights[at] / TOTAL, 0.0), mass)
        return int(p.ids[_inverse(mass, p.probs, u)])
    mass = p
    if q is not None:
        mass = p.copy()
        mass[q.ids] = np.maximum(mass[q.ids] - q.weights / TOTAL, 0.0)
    return _inverse(mass, p, u)


def _inverse(mass: Probs, otherwise: Probs, u: float) -> int:
    """Where the CDF of `mass` passes u; that of `otherwise` if there is no mass."""
    cdf = mass.cumsum()
    if cdf[-1] <= 0.0:
        cdf = otherwise.cumsum()
    target = min(u * cdf[-1], np.nextafter(cdf[-1], 0.0))  # u * total may round up to total
    return int(cdf.searchsorted(target, side="right"))
