"""Sequences in cells and passes of their own: what others do moves no bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.service import load_service
from uhlm_edge.common.keys import Keys
from uhlm_edge.lm.engines.llama import LlamaContext
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.engines.protocol import Logits, Work
from uhlm_edge.models.shipped import path_of

OPTIONS = EngineOptions(n_threads=1, n_threads_batch=1, n_ctx=256)
IDS = np.random.default_rng(0).integers(300, 8000, size=(4, 100)).tolist()


def rows_of_the_first(context: LlamaContext, company: bool) -> NDArray[np.float32]:
    """Logits of one sequence; with company others come, go, and share its passes."""
    rows = []
    if company:
        context.decode([Work(1, IDS[1][:60]), Work(2, IDS[2][:77])])
    context.decode([Work(0, IDS[0][:30])])
    for i in range(30, 50):
        works = [Work(0, [IDS[0][i]])]
        if company and i == 38:
            context.truncate(0, 1)  # cells are free before those of the first sequence
        if company and i >= 38:
            works.append(Work(3, IDS[3][3 * i - 110 : 3 * i - 107]))
        rows.append(context.decode(works)[0][0].copy())
    return np.array(rows)


@pytest.mark.parametrize("company", [False, True])
def test_what_others_do_moves_no_bit(company: bool) -> None:
    model = LlamaModel(path_of("demo-llm"), OPTIONS)
    contexts = [LlamaContext(model, OPTIONS, 4 * 256, 4, apart=True) for _ in range(2)]
    alone = rows_of_the_first(contexts[0], company=False)
    np.testing.assert_array_equal(rows_of_the_first(contexts[1], company), alone)
    for context in contexts:
        context.close()
    model.close()


def test_each_sequence_has_passes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide passes are taken by other kernels, on most processors and every GPU."""
    seen: list[int] = []
    append = LlamaContext._append

    def watched(context: LlamaContext, works: Sequence[Work]) -> Logits:
        seen.append(len({work.sequence for work in works}))
        return append(context, works)

    monkeypatch.setattr(LlamaContext, "_append", watched)
    model = LlamaModel(path_of("demo-slm"), OPTIONS)
    context = LlamaContext(model, OPTIONS, 4 * 256, 4, apart=True)
    rows = context.decode([Work(s, IDS[s][: 5 + s], 1 + s) for s in range(3)])
    assert [len(block) for block in rows] == [1, 2, 3]
    assert seen == [1, 1, 1]
    context.close()
    model.close()


def test_a_verifier_has_as_many_such_sessions_as_have_room() -> None:
    options = VerifierOptions(engine=OPTIONS, apart=True, sessions=64, cells=4 * 256)
    service = load_service(path_of("demo-llm"), options, Keys())
    store = service.verifier.store
    for name in range(5):
        session = store.use(("", str(name)))
        assert store.seat(("", str(name)), IDS[0], 200) == (name < 4)
        session.running = name < 4
    assert store.seated == 4
