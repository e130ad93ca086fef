"""The engine's copy follows the device's ids, and nothing is evaluated twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.common.errors import ContextFull
from uhlm_edge.edge.cache import TokenCache

from ...fakes import DEVICE, FakeEngine

ids = st.lists(st.integers(0, 3), min_size=1, max_size=6)
steps = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 3)),
    st.tuples(st.just("rollback"), st.integers(1, 6)),
    st.tuples(st.just("row"), st.just(0)),
    st.tuples(st.just("row before"), st.integers(0, 3)),
    st.tuples(st.just("rows"), st.integers(0, 1)),
    st.tuples(st.just("restart"), ids),
)


@given(ids, st.lists(steps, max_size=12))
def test_a_row_is_that_of_the_ids_whatever_went_before(start: list[int], todo: list[Any]) -> None:
    tape, mirror = TokenCache(FakeEngine(DEVICE)), list(start)
    tape.restart(start)
    for kind, value in todo:
        if kind == "append":
            tape.append(value)
            mirror.append(value)
        elif kind == "rollback":
            tape.rollback(value)
            del mirror[value:]
        elif kind == "restart":
            tape.restart(value)
            mirror = list(value)
        elif kind == "row before":
            np.testing.assert_array_equal(tape.row_before(value), DEVICE.row(mirror))
        elif kind == "rows" and len(mirror) > 2:
            expected = DEVICE.rows(mirror[: len(mirror) - value], 2)
            np.testing.assert_array_equal(tape.rows(2, value), expected)
        else:
            np.testing.assert_array_equal(tape.row(), DEVICE.row(mirror))
        assert tape.ids == mirror
        assert len(tape) == len(mirror)
        assert tape.unread == max(0, len(mirror) - tape.engine.length)
    np.testing.assert_array_equal(tape.row(), DEVICE.row(mirror))


def test_a_new_prompt_keeps_what_it_has_in_common() -> None:
    engine = FakeEngine(DEVICE)
    tape = TokenCache(engine)
    tape.restart([1, 2, 3, 4])
    tape.row()
    tape.restart([1, 2, 9])
    tape.row()
    assert engine.widths == [4, 1]
    assert engine.ids == [1, 2, 9]


def test_a_text_without_its_oldest_part_reads_only_what_is_new() -> None:
    engine = FakeEngine(DEVICE)
    tape = TokenCache(engine)
    head, gone, kept = [1, 2], [3] * 9, [*range(20, 60)]
    tape.restart([*head, *gone, *kept])
    tape.row()
    tape.slide([*head, *kept, 7])
    tape.restart([*head, *kept, 7])
    np.testing.assert_array_equal(tape.row(), DEVICE.row([*head, *kept, 7]))
    assert engine.widths == [51, 1]


def test_an_engine_that_cannot_move_ids_reads_the_text_again() -> None:
    class Fixed(FakeEngine):
        def cut(self, at: int, n: int) -> bool:
            return False

    tape = TokenCache(Fixed(DEVICE))
    tape.restart([1, 3, *range(20, 60)])
    tape.row()
    tape.slide([1, *range(20, 60)])
    tape.restart([1, *range(20, 60)])
    np.testing.assert_array_equal(tape.row(), DEVICE.row([1, *range(20, 60)]))


def test_a_row_that_is_gone_costs_one_position() -> None:
    engine = FakeEngine(DEVICE)
    tape = TokenCache(engine)
    tape.restart([1, 2, 3])
    tape.row()
    tape.row()
    assert engine.widths == [3, 1]


def test_what_was_read_ahead_costs_nothing_when_it_follows_and_is_gone_when_not() -> None:
    engine = FakeEngine(DEVICE)
    tape = TokenCache(engine)
    tape.restart([1, 2])
    tape.row_before(5)
    assert engine.widths == [3]
    tape.append(5)
    np.testing.assert_array_equal(tape.row(), DEVICE.row([1, 2, 5]))
    assert engine.widths == [3]
    tape.row_before(6)
    tape.append(7)
    np.testing.assert_array_equal(tape.row(), DEVICE.row([1, 2, 5, 7]))
    assert engine.ids == [1, 2, 5, 7]


def test_the_room_is_what_the_context_leaves() -> None:
    tape = TokenCache(FakeEngine(DEVICE, n_ctx=3))
    tape.restart([1, 2])
    assert tape.room == 1
    tape.append(3)
    assert tape.room == 0
    tape.append(4)
    with pytest.raises(ContextFull):
        tape.row()
