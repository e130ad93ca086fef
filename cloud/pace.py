"""What passes cost, learnt while they run, and what follows for the next."""

from __future__ import annotations

LEAST_SLICE = 2
"""Ids of a prompt that go into a pass, at least."""

_LONGEST = 2.5  # a pass with a slice may take so many times as long as one without, on average
_SWAPS, _MOST_OWED = 0.2, 0.5  # share of time that goes into changes of place; seconds owed
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
        self._slice, self._given = 16.0, 0
        self._slice_pass = 0.0  # seconds of a pass with such a slice; 0: there was none
        self._credit, self._credited = 0.0, 0.0
        self._short_ids = 0.0  # in a short pass, on average; 0: there was none
        self._was_short = True
        self._luck, self._refrained = 1.0, 0
        self._last_short = self._last_answer = float("-inf")
        self._around = 0.0  # seconds around the model, for a call; 0: not known yet
        self._in_halves = 0

    def slice(self, n_batch: int, n_short: int, now: float) -> int:
        """How many ids of prompts go into the next pass beside `n_short` short wishes.

        They ride along in each other pass only, and so many that it takes 2.5 times what a short
        one does on average, as passes with slices show; so that a short call waits for one of those
        and no more. While nobody else is there, whole passes are theirs.
        """
        if n_short:
            self._last_short = now
        self._given = 0
        if now - self._last_short > _QUIET:
            return n_batch
        if n_short and not self._was_short:
            return 0
        self._given = min(n_batch, int(self._slice))
        return self._given

    @property
    def per_id(self) -> float:
        """Seconds that one more id costs, beside what any pass costs; 0: not known yet."""
        return 0.0 if self._cost is None else max(1e-7, self._cost)

    def passed(self, seconds: float, n_ids: int, is_short: bool) -> None:
        """A pass took so long."""
        self._was_short = is_short
        if is_short:
            new = 0.1 if self._short_ids else 1.0
            self.short_pass += new * (seconds - self.short_pass)
            self._short_ids += new * (n_ids - self._short_ids)
            return
        if 0 < self._given <= n_ids:
            self._fit_slice(seconds)
        if (more := n_ids - self._short_ids) >= _TELLING:
            cost = (seconds - self.short_pass) / more
            self._cost = cost if self._cost is None else self._cost + 0.2 * (cost - self._cost)

    def _fit_slice(self, seconds: float) -> None:
        """Make slices larger or smaller by what passes with them take on average.

        One that another program held up counts as twice the limit: or slices would be tiny
        wherever that happens now and then.
        """
        limit = _LONGEST * self.short_pass
        seconds = min(seconds, 2.0 * limit)
        known = self._slice_pass or seconds
        known += 0.3 * (seconds - known)
        factor = min(1.25, max(0.7, (limit / known) ** 0.5))
        self._slice = max(LEAST_SLICE, self._slice * factor)
        # What the next one is going to take, if ids are what it takes longer for.
        self._slice_pass = self.short_pass + max(0.0, known - self.short_pass) * factor

    def may_swap(self, now: float) -> bool:
        """May a session make room for another, by the time that such changes took lately?"""
        self._credit = min(0.0, self._credit + _SWAPS * (now - self._credited))
        self._credited = now
        return self._credit >= 0.0

    def swapped(self, n_ids: int, seconds: float) -> None:
        """Some made room: so many ids are to be read again, and so long it takes to copy others."""
        cost = seconds + n_ids * (self.per_id or 0.5 * self.short_pass)
        self._credit = max(-_MOST_OWED, self._credit - cost)

    def answered(self, now: float, n_open: int) -> None:
        """A call was answered, while so many others were open."""
        if n_open > 1:
            self.per_answer += 0.02 * (min(1.0, now - self._last_answer) - self.per_answer)
        self._last_answer = now

    def patience(self) -> float:
        """Seconds of quiet after which calls that were just answered are waited for no longer.

        Half of what a pass costs whatever is in it: as long as they come, each that shares the next
        pass saves some of that. Only while such waits are mostly not in vain, with a new try now
        and then.
        """
        if self._luck < _LUCK and self._refrained < _TRY_EACH:
            self._refrained += 1
            return 0.0
        self._refrained = 0
        return 0.5 * self._fixed

    def left(self, quiet: float, begun: float, arrived: float, now: float) -> float:
        """Seconds to wait still: until it was quiet for so long, and no longer than a pass costs.

        Args:
            quiet: as `patience` said.
            begun: when those began to wait that are there.
            arrived: when the last one came.
            now: of the same clock.
        """
        return min(max(self._last_answer, arrived) + quiet, begun + 2.0 * quiet) - now

    @property
    def _fixed(self) -> float:
        """Seconds of a pass whatever is in it."""
        per_id = self.per_id or 0.5 * self.short_pass / max(1.0, self._short_ids)
        return max(0.0, self.short_pass - per_id * self._short_ids)

    def around(self, seconds: float, n_open: int) -> None:
        """Between two passes lay so long, with so many calls; -inf seconds tell nothing."""
        if seconds >= 0.0 and n_open:
            new = 0.1 if self._around else 1.0
            self._around += new * (seconds / n_open - self._around)

    def is_ahead(self, n_open: int) -> bool:
        """Shall the next pass begin before the rows of this one are handed out?

        The calls then go in two halves, which costs the fixed part of a pass once more, and hides
        what is done around the model for all of them. Now and then not, to see what that is.
        """
        if n_open < 2 or n_open * self._around <= self._fixed:
            return False
        self._in_halves = (self._in_halves + 1) % _TRY_EACH
        return self._in_halves != 0

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
