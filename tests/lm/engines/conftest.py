"""The demo SLM in F32, and what runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import llama_cpp as ll
from numpy.typing import NDArray

from uhlm_edge.lm.engines.llama import LlamaContext, LlamaEngine
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.models import shipped as models

OPTIONS = EngineOptions(
    n_ctx=96, n_batch=32, n_threads=1, n_threads_batch=1, flash_attention="off",
    cache_type_k="f32", cache_type_v="f32",
)  # fmt: skip
# Between batch widths; measured: 7e-6, and 2e-3 with flash attention.
TOLERANCE = 1e-4
SILENT = ll.llama_log_callback(lambda *_: None)  # llama.cpp keeps the pointer
TEXT = "The king of the island said that he would never again sail so far from home in winter."


@pytest.fixture(scope="session")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo SLM with every weight in F32."""
    path = tmp_path_factory.mktemp("f32") / "slm.gguf"
    ll.llama_log_set(SILENT, None)
    params = ll.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = ll.LLAMA_FTYPE_ALL_F32, True
    source = str(models.path_of("demo-slm")).encode()
    assert ll.llama_model_quantize(source, str(path).encode(), params) == 0
    return path


@pytest.fixture
def engine(f32: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(f32, OPTIONS, max_rows=8)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def model(f32: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(f32, OPTIONS)
    yield model
    model.close()


@pytest.fixture
def context(model: LlamaModel) -> Iterator[LlamaContext]:
    context = LlamaContext(model, OPTIONS, 512, n_sequences=4, max_rows=8)
    yield context
    context.close()


@pytest.fixture(scope="module")
def ids(model: LlamaModel) -> list[int]:
    return model.vocab.tokenize(TEXT)[:20]


def close_to(rows: NDArray[Any], others: NDArray[Any]) -> bool:
    return bool(rows.shape == others.shape and abs(rows - others).max() < TOLERANCE)
