"""API keys of a server: held as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable


class Keys:
    """The keys that are let in; none at all lets everybody in (loopback only)."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [_hash(key) for key in keys if key]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def __repr__(self) -> str:
        return f"Keys({len(self._hashes)})"

    def owner(self, authorization: str | None) -> str | None:
        """Who sent this `authorization` header: an opaque name, or None if nobody known."""
        if not self._hashes:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        given = _hash(key.strip())
        found = None
        for known in self._hashes:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = known.hex()
        return found if scheme.lower() == "bearer" else None


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
