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

from uhlm_edge.common.errors import ContextFull, EngineError, ModelError
from uhlm_edge.lm.engines.llama import LlamaContext, LlamaEngine
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.engines.protocol import Work
from uhlm_edge.lm.template import ChatTemplate
from uhlm_edge.lm.vocabulary import TextDecoder
from uhlm_edge.models import shipped as models

from ..gguf.gguf_files import ARCHITECTURE, gguf, tensor, write

OPTIONS = EngineOptions(
    n_ctx=96, n_batch=32, n_threads=1, n_threads_batch=1, flash_attention="off",
    cache_type_k="f32", cache_type_v="f32",
)  # fmt: skip
# Between batch widths; measured: 7e-6, and 2e-3 with flash attention.
TOLERANCE = 1e-4
SILENT = ll.llama_log_callback(lambda *_: None)  # llama.cpp keeps the pointer
TEXT = "The king of the island said that he would never again sail so far from home in winter."


@pytest.fixture(scope="module")
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


# Several sequences


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
