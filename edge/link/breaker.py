"""Circuit breaker: a cloud that is away must not cost time at every token."""

from __future__ import annotations

import time
from collections.abc import Callable

_SHORTEST, _LONGEST = 0.1, 30.0
_LONGEST_ASKED = 300.0  # a Retry-After of a year must not cost the rest of the session
_SHARE = 10.0  # stay away for ten times what the failure cost: at most a tenth of the time is lost


class Breaker:
    """Closed: calls go through. Open: none does. Half-open: one probe decides.

    It stays open in proportion to what the failed call cost. A refused connection costs nothing
    and is tried again at once; a timeout of three seconds keeps the next half minute free.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: float | None = None  # open until then; None: closed
        self._probing = False

    @property
    def ready(self) -> bool:
        """May a call go through now?"""
        if self._until is None:
            return True
        return not self._probing and self._clock() >= self._until

    def begin(self) -> None:
        """A call goes out; if half-open, it is the one probe."""
        self._probing = self._until is not None

    def succeed(self) -> None:
        """The call was answered: closed."""
        self._until, self._probing = None, False

    def fail(self, cost: float, retry_after: float | None = None) -> None:
        """The call failed, and another would cost so many seconds: open, `retry_after` at least."""
        pause = min(max(cost * _SHARE, _SHORTEST), _LONGEST)
        self._until = self._clock() + max(pause, min(retry_after or 0.0, _LONGEST_ASKED))
        self._probing = False

    def give_up(self) -> None:
        """Never again: the answer would be the same."""
        self._until, self._probing = float("inf"), False

    def abandon(self) -> None:
        """The call's outcome will not be known: as before."""
        self._probing = False
