"""A short run of each fuzz target, and every case that once failed. `make fuzz` runs longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from .mutate import cases
from .targets import TARGETS

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_failed_and_what_is_valid_is_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    kept = [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]
    for case in [*target.seeds()[:4], *kept]:
        target.run(case)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "template"])
def test_changed_bytes_are_read_or_refused(name: str) -> None:
    target = TARGETS[name]

    @seed(1)
    @settings(max_examples=60, database=None, suppress_health_check=list(HealthCheck))
    @given(cases(target.seeds(), target.form))
    def short(case: bytes) -> None:
        target.run(case)

    short()
