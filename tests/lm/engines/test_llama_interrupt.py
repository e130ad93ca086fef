"""Ctrl-C strikes where the time is spent: right after llama.cpp has run the model."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp

from uhlm_edge.lm.engines import llama
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.models import shipped as models


@pytest.fixture
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(models.path_of("demo-slm"), EngineOptions(n_threads=1, n_ctx=64))
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("module", "function", "is_done"),
    [(llama_cpp, "llama_decode", True), (llama, "_seq_rm", True), (llama, "_seq_rm", False)],
)
def test_an_interrupt_leaves_an_engine_that_goes_on(
    engine: LlamaEngine,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    function: str,
    is_done: bool,
) -> None:
    ids = engine.vocab.tokenize("What is the capital of Peru?")
    expected = engine.eval(ids)[0].copy()
    real = getattr(module, function)

    def interrupted(*arguments: Any) -> Any:
        if is_done:
            real(*arguments)
        raise KeyboardInterrupt

    def go_on() -> None:
        engine.truncate(3)
        engine.eval(ids[3:])

    with monkeypatch.context() as patch:
        patch.setattr(module, function, interrupted)
        with pytest.raises(KeyboardInterrupt):
            go_on()
    assert engine.length == 3
    np.testing.assert_allclose(engine.eval(ids[3:])[0], expected, atol=0.3)


def test_an_interrupt_before_anything_is_done_changes_nothing(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = engine.vocab.tokenize("What is the capital of Peru?")

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.eval(ids)
    assert engine.length == 0
    assert engine.eval(ids).shape == (1, len(engine.vocab))
