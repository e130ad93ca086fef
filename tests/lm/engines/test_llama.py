"""llama.cpp with the demo SLM: every way to the same ids gives the same rows.

How wide a batch is changes the last bits of float32 sums, and quantised kernels more than that; so
what is compared across widths runs on an F32 copy.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp as ll
from numpy.typing import NDArray

from uhlm_edge.common.errors import ContextFull, ModelError
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.template import ChatTemplate
from uhlm_edge.lm.vocabulary import TextDecoder
from uhlm_edge.models import shipped as models

from ..gguf.gguf_files import ARCHITECTURE, gguf, tensor, write
from .conftest import OPTIONS, TEXT, close_to


def one_by_one(engine: LlamaEngine, ids: list[int]) -> NDArray[Any]:
    return np.array([engine.eval([token])[0].copy() for token in ids])


# One sequence


def test_rows_of_a_block_are_those_of_single_ids(engine: LlamaEngine, ids: list[int]) -> None:
    single = one_by_one(engine, ids)
    assert single.shape == (20, len(engine.vocab))
    engine.truncate(0)
    assert close_to(engine.eval(ids[:15], rows=6), single[9:15])
    assert close_to(engine.eval(ids[15:], rows=5), single[15:])
    assert engine.length == 20


def test_more_rows_than_one_pass_gives(engine: LlamaEngine, ids: list[int]) -> None:
    single = one_by_one(engine, ids)
    engine.truncate(0)
    assert close_to(engine.eval(ids, rows=20), single)  # max_rows is 8


def test_more_ids_than_one_pass_takes(engine: LlamaEngine, ids: list[int]) -> None:
    long = (ids * 5)[:90]
    single = one_by_one(engine, long)
    for rows in (1, 3, 40):  # n_batch is 32
        engine.truncate(0)
        assert close_to(engine.eval(long, rows=rows), single[-rows:])


def test_no_rows_and_no_ids(engine: LlamaEngine, ids: list[int]) -> None:
    assert engine.eval(ids[:5], rows=0).shape == (0, len(engine.vocab))
    assert engine.eval([], rows=0).shape == (0, len(engine.vocab))
    assert engine.length == 5
    rest = engine.eval(ids[5:])
    engine.truncate(0)
    assert close_to(rest, engine.eval(ids))


def test_after_a_rollback_the_same_ids_give_bitwise_the_same(
    engine: LlamaEngine, ids: list[int]
) -> None:
    engine.eval(ids[:10])
    first = engine.eval(ids[10:], rows=8).copy()
    engine.truncate(10)
    engine.eval(ids[:7], rows=7)  # another text in between
    engine.truncate(10)
    assert engine.length == 10
    assert (engine.eval(ids[10:], rows=8) == first).all()


def test_truncating_beyond_the_end_changes_nothing(engine: LlamaEngine, ids: list[int]) -> None:
    engine.eval(ids[:5])
    engine.truncate(50)
    assert engine.length == 5
    engine.truncate(0)
    engine.truncate(0)
    assert engine.length == 0


def test_a_full_context_is_said_and_nothing_is_appended(
    engine: LlamaEngine, ids: list[int]
) -> None:
    engine.eval((ids * 5)[:90])
    with pytest.raises(ContextFull, match="7 more tokens in a context of 96"):
        engine.eval(ids[:7])
    assert engine.length == 90
    rest = engine.eval(ids[:6], rows=6).copy()
    assert engine.length == 96
    with pytest.raises(ContextFull):
        engine.eval([ids[0]])
    engine.truncate(90)
    assert (engine.eval(ids[:6], rows=6) == rest).all()


def test_closing_twice_is_fine(f32: Path) -> None:
    engine = LlamaEngine(f32, OPTIONS)
    engine.close()
    engine.close()


# Options and files


def test_the_shipped_quantised_model_rolls_back_bitwise() -> None:
    engine = LlamaEngine(models.path_of("demo-slm"), EngineOptions(n_threads=1, n_ctx=64))
    ids = engine.vocab.tokenize(TEXT)[:12]
    engine.eval(ids[:-1])
    row = engine.eval(ids[-1:]).copy()
    engine.truncate(11)
    assert (engine.eval(ids[-1:]) == row).all()
    engine.close()


@pytest.mark.parametrize(
    "change",
    [
        {"mmap": False},
        {"flash_attention": "auto"},
        {"flash_attention": "on"},
        {"cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attention": "on"},
        {"n_threads": 2, "n_threads_batch": 2},
        {"n_batch": 4},
    ],
    ids=str,
)
def test_every_option_gives_the_same_model(
    engine: LlamaEngine, f32: Path, ids: list[int], change: dict[str, object]
) -> None:
    other = LlamaEngine(f32, OPTIONS.model_copy(update=change))
    a, b = engine.eval(ids)[0], other.eval(ids)[0]
    assert abs(a - b).max() < (0.5 if "cache_type_k" in change else 0.02)
    assert a.argmax() == b.argmax()
    other.close()


def test_a_context_is_never_longer_than_the_model_was_trained_for(f32: Path) -> None:
    engine = LlamaEngine(f32, OPTIONS.model_copy(update={"n_ctx": 10**6}))
    assert engine.n_ctx == engine.model.n_ctx_train == 1024
    engine.close()


def test_options_that_llama_cpp_cannot_do_are_refused(f32: Path) -> None:
    bad = OPTIONS.model_copy(update={"cache_type_v": "q4_0", "flash_attention": "off"})
    with pytest.raises(ModelError, match="q4_0"):
        LlamaEngine(f32, bad)


def bad_files(folder: Path) -> Iterator[Path]:
    yield folder / "missing.gguf"
    yield folder
    yield write(folder, b"", "empty.gguf")
    yield write(folder, b"GGUF", "short.gguf")
    yield write(folder, b"\x80\x04pickle" * 20, "pickle.gguf")
    yield write(folder, gguf([ARCHITECTURE], [tensor(offset=2**40)]), "offset.gguf")
    yield write(folder, gguf([ARCHITECTURE], [tensor()]), "no-model.gguf")  # well-formed
    whole = shutil.copy(models.path_of("demo-slm"), folder / "cut.gguf")
    Path(whole).write_bytes(Path(whole).read_bytes()[:-1000])
    yield Path(whole)


def test_files_that_are_no_models_are_refused_and_named(tmp_path: Path) -> None:
    for path in bad_files(tmp_path):
        with pytest.raises(ModelError) as caught:
            LlamaEngine(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


# Vocabulary


def test_text_goes_through_ids_and_back(model: LlamaModel) -> None:
    vocab = model.vocab
    for text in (TEXT, "", "é漢🙂\n\t", "a\0b", "  spaces  "):
        ids = vocab.tokenize(text)
        assert vocab.text(ids) == text
        decoder = TextDecoder(vocab)
        assert "".join(map(decoder.feed, ids)) + decoder.end() == text
    assert vocab.text(vocab.tokenize("lone \ud800 surrogate")) == "lone ? surrogate"


def test_what_a_user_types_is_never_a_control_id(model: LlamaModel) -> None:
    vocab = model.vocab
    typed, meant = vocab.tokenize("<|end|>"), vocab.tokenize("<|end|>", special=True)
    assert len(meant) == 1
    assert meant[0] in vocab.end_ids
    assert not set(typed) & vocab.end_ids
    assert vocab.text(typed) == "<|end|>"
    assert vocab.text(meant) == ""


def test_both_shipped_models_share_a_vocabulary_and_have_a_template() -> None:
    llm = LlamaModel(models.path_of("demo-llm"), OPTIONS)
    slm = LlamaModel(models.path_of("demo-slm"), OPTIONS)
    assert llm.vocab.fingerprint == slm.vocab.fingerprint
    text = ChatTemplate(llm.vocab.template, llm.vocab.bos, llm.vocab.eos).render(
        [{"role": "user", "content": "Hello"}]
    )
    ids = llm.vocab.tokenize(text, special=True)
    assert ids == slm.vocab.tokenize(text, special=True)
    assert len(ids) < 10
    for one in (llm, slm):
        one.close()


# The low-level calls that are built on


def test_the_installed_version_is_one_that_these_tests_passed_with() -> None:
    version = importlib.metadata.version("llama-cpp-python")
    assert version.split(".")[:3] == ["0", "3", "36"]


@pytest.mark.parametrize(
    ("struct", "fields"),
    [
        (ll.llama_batch, "n_tokens token embd pos n_seq_id seq_id logits"),
        (
            ll.llama_context_params,
            "n_ctx n_batch n_ubatch n_seq_max n_outputs_max n_outputs_max_per_seq n_threads "
            "n_threads_batch flash_attn_type type_k type_v swa_full kv_unified",
        ),
        (ll.llama_model_params, "n_gpu_layers load_mode"),
    ],
)
def test_the_fields_that_are_set_exist(struct: type, fields: str) -> None:
    # ctypes takes an unknown field for a new attribute of the object: nothing would be set.
    assert set(fields.split()) <= {name for name, *_ in struct._fields_}  # type: ignore[attr-defined]
