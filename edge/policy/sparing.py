"""A policy that asks the cloud less, or not at all, while the device must be spared."""

from __future__ import annotations

from collections.abc import Callable

from ...lm.draws import Draws
from ..events import Draft, SkippedVerdict
from .policies import Policy


class Sparing:
    """Another policy, held back while `strain` gives a reason; the user is told when that changes.

    Tokens that are not uploaded follow the device's model, whatever the strategy: `hlm` and `spec`
    are not exact meanwhile.

    Args:
        policy: decides otherwise.
        strain: why the device must be spared now; None: it need not be.
        threshold: upload meanwhile only what the policy wants and whose u is above; None: nothing.
        notify: takes a line for the user.
    """

    def __init__(
        self,
        policy: Policy,
        strain: Callable[[], str | None],
        threshold: float | None,
        notify: Callable[[str], None],
    ) -> None:
        self._policy = policy
        self._strain = strain
        self._threshold = threshold
        self._notify = notify
        self._strained = False

    @property
    def needs(self) -> frozenset[str]:
        if self._threshold is None:
            return self._policy.needs
        return self._policy.needs | {"uncertainty"}

    @property
    def audit_after(self) -> int | None:
        return None if self._strained else self._policy.audit_after

    @property
    def threshold(self) -> float | None:
        return self._threshold if self._strained else self._policy.threshold

    def upload(self, draft: Draft, draws: Draws) -> bool:
        wanted = self._policy.upload(draft, draws)  # asked always: it may count or learn
        if not self._look():
            return wanted
        if self._threshold is None or draft.uncertainty is None:
            return False
        return wanted and draft.uncertainty > self._threshold

    def _look(self) -> bool:
        reason = self._strain()
        strained = reason is not None
        if strained != self._strained:
            self._strained = strained
            how = "no uploads" if self._threshold is None else f"uploads only u > {self._threshold}"
            self._notify(f"{reason}: {how}" if reason else "the device has recovered: as before")
        return strained

    def observe(self, judged: SkippedVerdict) -> None:
        self._policy.observe(judged)

    def save(self) -> None:
        self._policy.save()
