"""A verifier that is killed costs verdicts, and nothing else."""

from __future__ import annotations

import pytest

from .kills import ASKING, run


@pytest.mark.slow
def test_sigkill_changes_no_verified_text_and_every_strategy_is_hybrid_again() -> None:
    result = run(kills=len(ASKING), replies=3 * len(ASKING))
    assert result.wrong == []
    assert result.kills == len(ASKING)
    assert result.hit >= len(ASKING)
    assert result.recovered == set(ASKING)
