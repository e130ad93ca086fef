"""What passes cost, learnt while they run, and what follows for the next."""

from __future__ import annotations

__all__ = ["LEAST_SLICE", "Pace"]

LEAST_SLICE = 8
"""Ids of a prompt that go into a pass, at least."""

_LUCK, _TRY_EACH = 0.4, 32  # waits in vain: below which share they are left out, but each n-th
_QUIET = 1.0  # seconds without short calls, after which prompts get whole passes
_TELLING = 4.0  # ids more than in a short pass, from which a pass tells what one id costs


class Pace:
    """Costs and shares of the passes so far.

    Attributes:
        short_pass: seconds of a pass with short wishes only.
        per_answer: seconds between two answers while calls wait.
    """

    def __init__(self) -> None:
        self.short_pass = 0.002
        self.per_answer = 0.005
        self._served: dict[str, float] = {}
        self._faded = 0.0
        self._cost: float | None = None
        self._slice = LEAST_SLICE
        self._short_ids = 1.0
        self._was_short = True
        self._luck, self._refrained = 1.0, 0
        self._last_short = self._last_answer = float("-inf")

    def slice(self, n_batch: int, n_short: int, now: float) -> int:
        """How many ids of prompts go into the next pass beside `n_short` short wishes.

        They may take as long as the short ones do, so that none of these waits for more than
        twice its time. Where that would be too few to get anywhere, they ride along in each other
        pass only. While nobody else is there, whole passes are theirs. A slice is at most twice as
        long as the last one, so that a wrong guess costs little.
        """
        if n_short:
            self._last_short = now
        if now - self._last_short > _QUIET:
            return n_batch
        n = int(self.short_pass / self.per_id) if self.per_id else n_batch
        if n < LEAST_SLICE and n_short and not self._was_short:
            return 0
        self._slice = max(LEAST_SLICE, min(n_batch, n, 2 * self._slice))
        return self._slice

    @property
    def per_id(self) -> float:
        """Seconds that one more id costs, beside what any pass costs; 0: not known yet."""
        return 0.0 if self._cost is None else max(1e-7, self._cost)

    def passed(self, seconds: float, n_ids: int, is_short: bool) -> None:
        """A pass took so long."""
        self._was_short = is_short
        if is_short:
            self.short_pass += 0.1 * (seconds - self.short_pass)
            self._short_ids += 0.1 * (n_ids - self._short_ids)
        elif (more := n_ids - self._short_ids) >= _TELLING:
            cost = (seconds - self.short_pass) / more
            self._cost = cost if self._cost is None else self._cost + 0.2 * (cost - self._cost)

    def answered(self, now: float, n_open: int) -> None:
        """A call was answered, while so many others were open."""
        if n_open > 1:
            self.per_answer += 0.02 * (min(1.0, now - self._last_answer) - self.per_answer)
        self._last_answer = now

    def patience(self, now: float) -> float:
        """Seconds to wait still for calls that were just answered, so that they share a pass.

        Counted from the last answer: half of what a pass costs whatever is in it. Only while such
        waits are mostly not in vain, with a new try now and then.
        """
        if self._luck < _LUCK and self._refrained < _TRY_EACH:
            self._refrained += 1
            return 0.0
        self._refrained = 0
        per_id = self.per_id or 0.5 * self.short_pass / self._short_ids
        fixed = self.short_pass - per_id * self._short_ids
        return max(0.0, self._last_answer + 0.5 * fixed - now)

    def waited(self, came: float) -> None:
        """That share of the missing calls came in time."""
        self._luck += 0.2 * (came - self._luck)

    def fade(self, now: float) -> None:
        """What an owner had counts half after a second."""
        factor, self._faded = 0.5 ** max(0.0, now - self._faded), now
        self._served = {o: n * factor for o, n in self._served.items() if n * factor > 0.01}

    def serve(self, owner: str, n_ids: int) -> None:
        """An owner had so many ids of a pass."""
        self._served[owner] = self._served.get(owner, 0.0) + n_ids

    def served(self, owner: str) -> float:
        """How much it had lately."""
        return self._served.get(owner, 0.0)
