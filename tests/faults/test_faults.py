"""Whatever the way to the verifier does, the text is what it should be (docs/reliability.md)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .matrix import ALL_KINDS, STRATEGIES, case, upstream

QUICK = ("wrong session", "reset")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with upstream() as port:
        yield port


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in ALL_KINDS]
)
def test_a_fault_changes_no_verified_text_is_told_once_and_leaves_nothing_behind(
    port: int, kind: str
) -> None:
    """With every strategy, pipelined and not: see `matrix.case` for what is checked."""
    cases = [case(port, kind, name, piped) for name in STRATEGIES for piped in (False, True)]
    assert [one for one in cases if one.wrong] == []
    assert sum(one.hit for one in cases) == len(cases) - 2  # `local` asks nobody
    clean = kind == "clock jumps"
    assert all((one.unverified == 0) == (clean or not one.hit) for one in cases)
