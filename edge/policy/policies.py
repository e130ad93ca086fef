"""After each draft: upload it or not?"""

from __future__ import annotations

from typing import Protocol

from ...configs.config import AskBy
from ...lm.draws import Draws, Purpose
from ..events import Draft, SkippedVerdict

NEEDS: dict[AskBy, frozenset[str]] = {
    "uncertainty": frozenset(["uncertainty"]),
    "head": frozenset(["uncertainty", "reward"]),  # u is one of the things that the head reads
}
"""Which fields of a Draft a threshold needs."""


def doubt(draft: Draft, ask_by: AskBy) -> float | None:
    """What a threshold is compared with, from 0 to 1; None if it was not measured.

    u, or how likely a rejection is as the head expects: 1 - its reward (arXiv 2409.13757).
    """
    if ask_by == "uncertainty":
        return draft.uncertainty
    return None if draft.reward is None else 1.0 - draft.reward


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
    """`uhlm`, `spec` and `reward`: u (arXiv 2412.12687) or the head's doubt above a threshold."""

    threshold: float

    def __init__(self, threshold: float, ask_by: AskBy = "uncertainty") -> None:
        self.threshold = threshold
        self.needs = NEEDS[ask_by]
        self._ask_by: AskBy = ask_by

    def upload(self, draft: Draft, draws: Draws) -> bool:
        found = doubt(draft, self._ask_by)
        return found is None or found > self.threshold


class RandomRate(_Fixed):
    """`rand`: a given share of the tokens, whatever they are. The baseline."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def upload(self, draft: Draft, draws: Draws) -> bool:
        return draws.one(Purpose.ROUTE, draft.index) < self.rate
