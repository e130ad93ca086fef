"""API keys of a verifier."""

from __future__ import annotations

from ..common.keys import Keys

__all__ = ["Keys"]
