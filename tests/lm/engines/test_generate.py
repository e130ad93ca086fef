"""The plain draw loop: each token from the row after all before it, up to where a text ends."""

from __future__ import annotations

import numpy as np

from uhlm_edge.lm.engines.generate import generate
from uhlm_edge.lm.row import Row

from ...fakes import DEVICE, FakeEngine

PROMPT = [5, 6, 7]
END = len(DEVICE.vocab) - 1


def best(row: Row) -> int:
    return row.best


def test_every_token_is_chosen_from_the_row_after_all_before_it() -> None:
    engine = FakeEngine()
    engine.eval([1, 2])  # what it held is forgotten
    tokens: list[int] = []
    for step in generate(engine, PROMPT, best, 20):
        assert np.array_equal(step.row.logits, DEVICE.row(PROMPT + tokens))
        tokens.append(step.token)
    assert len(tokens) == 20
    assert engine.ids == PROMPT + tokens[:-1]  # nothing is read twice, nor in vain


def test_it_ends_with_the_end_of_text() -> None:
    answers = iter([3, 4, END, 5])
    steps = generate(FakeEngine(), PROMPT, lambda row: next(answers), 20)
    assert [step.token for step in steps] == [3, 4, END]


def test_it_ends_where_the_context_is_full() -> None:
    steps = generate(FakeEngine(n_ctx=8), PROMPT, lambda row: 1, 20)
    assert [step.token for step in steps] == [1] * 5


def test_a_prompt_that_leaves_no_room_gives_nothing() -> None:
    assert list(generate(FakeEngine(n_ctx=3), PROMPT, best, 20)) == []
    assert list(generate(FakeEngine(n_ctx=4), PROMPT * 2, best, 20)) == []
