"""Who may ask, how often, and how: what is refused before a call costs anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..common.keys import Keys

_FORWARDED = {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"}
_BURST = 2.0  # seconds of a key's rate that may come at once


class Refusal(Exception):
    """An answer that is no reply: a status, a line that says why, when to come back.

    Args:
        status: of HTTP.
        message: for people.
        retry_after: seconds.
        more: further fields of the body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after: float | None = None,
        more: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.more = more or {}


class Guard:
    """Keys, and how often each may ask.

    Args:
        keys: that are let in; none lets everybody in, on this machine.
        calls_per_s: of one key, in the long run; 0: as many as it likes.
        clock: seconds, monotonic.
    """

    def __init__(
        self, keys: Keys, calls_per_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._rate = calls_per_s
        self._clock = clock
        self._tokens: dict[str, tuple[float, float]] = {}  # owner: calls left, as of when

    def owner(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Whose request it is.

        Raises:
            Refusal: nobody's whom we know, or an open verifier was put behind a proxy.
        """
        authorization = None
        for name, value in headers:
            if name == b"authorization":
                authorization = value.decode("latin-1")
            elif name in _FORWARDED and not self._keys:
                raise Refusal(
                    403, "a proxy forwards to this verifier, which has no key: set UHLM_API_KEY"
                )
        owner = self._keys.owner(authorization)
        if owner is None:
            raise Refusal(401, "this verifier wants a key: authorization: Bearer KEY")
        return owner

    def admit(self, owner: str) -> None:
        """Count a call of this owner.

        Raises:
            Refusal: it asks too often.
        """
        if not self._rate:
            return
        most, now = max(1.0, _BURST * self._rate), self._clock()
        left, since = self._tokens.get(owner, (most, now))
        left = min(most, left + (now - since) * self._rate)
        if left < 1.0:
            raise Refusal(429, "this key asks too often", (1.0 - left) / self._rate)
        self._tokens[owner] = left - 1.0, now
