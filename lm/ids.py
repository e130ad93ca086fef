"""Texts as ids: what two of them have in common, and what was left out of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Slide = Literal["none", "device", "both"]
"""Who keeps what was read of a long conversation when its oldest turns are left out."""

_LEAST_KEPT = 16  # ids: less than this in common after a gap is chance, or not worth it


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first ids are the same."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # slices are compared far faster than ids one by one
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def left_out(old: list[int], new: list[int]) -> tuple[int, int]:
    """What must go from `old` for as much of the rest as possible to begin `new`.

    Returns:
        Where it begins, which is what both have in common before it, and its number of ids: 0 if
        nothing that can go makes `old` more like `new`.
    """
    at = common_length(old, new)
    anchor, rest = new[at : at + _LEAST_KEPT], new[at:]
    best, n = 0, 0
    if len(anchor) == _LEAST_KEPT:
        for i in range(at + 1, len(old) - _LEAST_KEPT + 1):
            if old[i] == anchor[0] and old[i : i + _LEAST_KEPT] == anchor:
                kept = common_length(old[i:], rest)
                if kept > best:
                    best, n = kept, i - at
    return at, n
