"""The curve of strategy `handoff` against each threshold tried by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.calibrate.handoff import Point, Row, choose, curve, read_rows
from uhlm_edge.common.errors import DataError

ROWS = st.lists(st.builds(Row, st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.booleans(), st.booleans()))


@given(ROWS.filter(bool), st.floats(-0.9, 1.0))
def test_the_curve_has_what_every_threshold_gives(rows: list[Row], threshold: float) -> None:
    point = [p for p in curve(rows) if p.threshold <= threshold][-1]
    handed = [row for row in rows if row.u > threshold]
    kept = [row for row in rows if row.u <= threshold]
    assert point.share == len(handed) / len(rows)
    right = sum(row.cloud_right for row in handed) + sum(row.device_right for row in kept)
    assert point.accuracy == right / len(rows)


@given(ROWS.filter(bool))
def test_the_curve_goes_from_the_endpoint_alone_to_the_device_alone(rows: list[Row]) -> None:
    first, *_, last = curve(rows)
    assert (first.share, last.share) == (1.0, 0.0)
    assert first.accuracy == sum(row.cloud_right for row in rows) / len(rows)
    assert last.accuracy == sum(row.device_right for row in rows) / len(rows)


def test_the_choice_hands_over_least_of_what_is_good_enough() -> None:
    points = [Point(-1.0, 1.0, 0.97), Point(0.1, 0.4, 0.98), Point(0.2, 0.2, 0.972)]
    points.append(Point(0.3, 0.0, 0.9))
    assert choose(points).threshold == 0.2
    assert choose(points, loss=0.0).threshold == 0.1


def test_a_line_that_is_no_task_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"messages": [], "answer": "a"}\n{"messages": []}\n')
    with pytest.raises(DataError, match="line 2"):
        read_rows(file)
