"""Several sequences in one context of llama.cpp: none moves what another gives.

What is compared across batch widths runs on an F32 copy, see `test_llama.py`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from uhlm_edge.common.errors import ContextFull, EngineError
from uhlm_edge.lm.engines.llama import LlamaContext, LlamaEngine
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.protocol import Work

from .conftest import OPTIONS, close_to


def test_sequences_in_one_batch_give_what_each_alone_gives(
    context: LlamaContext, engine: LlamaEngine, ids: list[int]
) -> None:
    texts = [ids[:12], ids[5:9], [*ids[9:], ids[0]], ids[3:4]]
    together = [r.copy() for r in context.decode([Work(i, t, 1) for i, t in enumerate(texts)])]
    again = [r.copy() for r in context.decode([Work(3, ids[:3], 3), Work(1, ids[:2], 2)])]
    for text, row in zip(texts, together, strict=True):
        engine.truncate(0)
        assert close_to(engine.eval(text), row)
    for text, more, rows in ((texts[3], ids[:3], again[0]), (texts[1], ids[:2], again[1])):
        engine.truncate(0)
        assert close_to(engine.eval([*text, *more], rows=len(more)), rows)
    assert [context.length(i) for i in range(4)] == [12, 6, 12, 4]


def test_more_works_than_one_pass_takes(
    context: LlamaContext, engine: LlamaEngine, ids: list[int]
) -> None:
    works = [Work(i, ids[i : i + 15], 5) for i in range(4)]  # 60 ids, 20 rows; 32 and 8 fit
    blocks = context.decode(works)
    for work, rows in zip(works, blocks, strict=True):
        engine.truncate(0)
        assert close_to(engine.eval(work.tokens, rows=5), rows)


def test_a_rollback_of_one_sequence_leaves_the_others(
    context: LlamaContext, ids: list[int]
) -> None:
    context.decode([Work(0, ids[:10], 0), Work(1, ids[5:15], 0)])
    (before,) = (r.copy() for r in context.decode([Work(1, ids[:3], 3)]))
    context.truncate(10, 1)
    context.truncate(2, 0)
    context.decode([Work(0, ids[10:], 0)])
    (after,) = context.decode([Work(1, ids[:3], 3)])
    assert close_to(before, after)
    assert (context.length(0), context.length(1)) == (12, 13)


def test_a_sequence_may_be_shortened_while_another_thread_reads_others(
    context: LlamaContext, ids: list[int]
) -> None:
    context.decode([Work(1, ids, 0), Work(2, ids, 0)])
    (alone,) = (r.copy() for r in context.decode([Work(0, ids, 1)]))
    for n in range(len(ids) - 1, 4, -1):
        context.truncate(0, 0)
        with ThreadPoolExecutor(1) as other:
            passing = other.submit(context.decode, [Work(0, ids, 1)])
            context.truncate(n, 1)
            while not passing.done():
                context.truncate(n, 1)
        assert close_to(passing.result()[0], alone)
    assert [context.length(i) for i in range(3)] == [len(ids), 5, len(ids)]
    after_five, whole = (r.copy() for r in context.decode([Work(1, ids[5:], 1), Work(3, ids, 1)]))
    assert close_to(after_five, whole)


def test_rows_that_are_kept_outlast_the_next_pass(context: LlamaContext, ids: list[int]) -> None:
    for i in range(3):
        (kept,) = context.decode([Work(i, ids[:4], 4)], keep=True)
        as_given = kept.copy()
        context.decode([Work(3, ids[i : i + 4], 4)], keep=True)
        assert np.array_equal(kept, as_given)


def test_what_follows_a_cut_keeps_its_work_and_counts_from_the_new_place(
    context: LlamaContext, engine: LlamaEngine, ids: list[int]
) -> None:
    """Of the first layer only what is attended to changes: rows come near those of the cut text."""
    context.decode([Work(1, ids, 0), Work(0, ids[::-1], 0)])
    assert context.cut(4, 3, 1)
    assert (context.length(1), context.length(0)) == (len(ids) - 3, len(ids))
    kept = [*ids[:4], *ids[7:]]
    (row,) = (r.copy() for r in context.decode([Work(1, ids[:1], 1)]))
    fresh = engine.eval([*kept, ids[0]])
    assert not close_to(row, fresh)  # it has seen what was cut
    assert np.corrcoef(row[0], fresh[0])[0, 1] > 0.9
    engine.truncate(0)
    assert np.corrcoef(row[0], engine.eval(ids[-1:])[0])[0, 1] < 0.9  # red without its keys


def test_a_text_that_is_rolled_back_to_the_cut_is_as_if_nothing_had_been_there(
    engine: LlamaEngine, ids: list[int]
) -> None:
    fresh = engine.eval(ids[:12]).copy()
    engine.truncate(6)
    engine.eval([*ids[15:], *ids[6:12]], rows=0)
    assert engine.cut(6, 5)
    engine.truncate(6)
    assert close_to(engine.eval(ids[6:12]), fresh)


def test_a_full_pool_is_said_and_every_sequence_is_as_before(
    model: LlamaModel, engine: LlamaEngine, ids: list[int]
) -> None:
    context = LlamaContext(model, OPTIONS, 256, n_sequences=3, max_rows=8)
    long = (ids * 20)[:200]
    context.decode([Work(0, long, 0), Work(1, ids, 0)])
    with pytest.raises(ContextFull, match="no room"):
        context.decode([Work(1, ids[:10], 1), Work(2, ids * 2, 1)])
    assert [context.length(i) for i in range(3)] == [200, 20, 0]
    (rows,) = context.decode([Work(1, ids[:4], 4)])
    assert close_to(rows, engine.eval([*ids, *ids[:4]], rows=4))
    context.truncate(0, 0)
    context.decode([Work(2, ids * 2, 1)])
    assert [context.length(i) for i in range(3)] == [0, 24, 40]
    context.close()


def test_ids_that_do_not_exist_change_nothing(context: LlamaContext, ids: list[int]) -> None:
    context.decode([Work(0, ids, 0)])
    with pytest.raises(EngineError):
        context.decode([Work(0, [1, 10**6], 1)])
    assert context.length(0) == 20
    context.decode([Work(0, ids[:2], 1)])
