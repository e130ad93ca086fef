"""After each draft: upload it or not?"""

from __future__ import annotations

from typing import Protocol

from ...lm.draws import Draws, Purpose
from ..events import Draft, SkippedVerdict

__all__ = ["Always", "Never", "Policy", "RandomRate", "RewardBelow", "UncertainAbove"]


class Policy(Protocol):
    """Decides from what the device knows, and may learn from what the cloud tells later."""

    @property
    def needs(self) -> frozenset[str]:
        """Which fields of a Draft it reads: "uncertainty", "reward"."""
        ...

    @property
    def audit_after(self) -> int | None:
        """Most tokens skipped in a row before an audit asks about them; None: no audits."""
        ...

    @property
    def threshold(self) -> float | None:
        """What the decision compares with now; None if nothing is compared."""
        ...

    def upload(self, draft: Draft, draws: Draws) -> bool:
        """Ask the verifier about this draft?"""
        ...

    def observe(self, judged: SkippedVerdict) -> None:
        """The risk of a settled token has become known: 0 if it was uploaded, else its beta."""
        ...

    def save(self) -> None:
        """A reply ended: keep for the next run what was learnt."""
        ...


class _Fixed:
    """Policies that never learn and read nothing."""

    needs: frozenset[str] = frozenset()
    audit_after: int | None = None
    threshold: float | None = None

    def observe(self, judged: SkippedVerdict) -> None:
        """Learns nothing."""

    def save(self) -> None:
        """Keeps nothing."""


class Never(_Fixed):
    """`local`."""

    def upload(self, draft: Draft, draws: Draws) -> bool:
        return False


class Always(_Fixed):
    """`hlm` and `cloud`."""

    def upload(self, draft: Draft, draws: Draws) -> bool:
        return True


class UncertainAbove(_Fixed):
    """`uhlm`: u > threshold (arXiv 2412.12687)."""

    needs = frozenset(["uncertainty"])
    threshold: float

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def upload(self, draft: Draft, draws: Draws) -> bool:
        return draft.uncertainty is None or draft.uncertainty > self.threshold


class RandomRate(_Fixed):
    """`rand`: a given share of the tokens, whatever they are. The baseline."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def upload(self, draft: Draft, draws: Draws) -> bool:
        return draws.one(Purpose.ROUTE, draft.index) < self.rate


class RewardBelow(_Fixed):
    """`reward`: the head expects the LLM to disagree (arXiv 2409.13757)."""

    needs = frozenset(["uncertainty", "reward"])
    threshold: float

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def upload(self, draft: Draft, draws: Draws) -> bool:
        return draft.reward is None or draft.reward < self.threshold
