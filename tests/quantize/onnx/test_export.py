"""ONNX: each family computes what its numpy forward and its GGUF compute, and bad folders fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.common.errors import ContextFull, EngineError, ModelError, ResourceError, UsageError
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.onnx import OnnxEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.engines.protocol import Engine
from uhlm_edge.quantize.convert.folder import convert
from uhlm_edge.quantize.convert.sample_text import SAMPLE_LINES
from uhlm_edge.quantize.onnx.export import export_onnx

from ..convert.forward import logits
from ..tiny_models import Folder, ids_of, make

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 2.0}
MODELS: dict[str, Callable[[], Folder]] = {
    "llama": lambda: make("llama"),
    "llama_tied_sentencepiece": lambda: make("llama", spm=True, tied=True),
    "llama_biases": lambda: make("llama", attention_bias=True),
    "llama3_positions": lambda: make("llama", rule="llama-bpe", rope_scaling=LLAMA3),
    "one_key_head": lambda: make("llama", kv_heads=1),
    "a_key_for_each_head": lambda: make("llama", kv_heads=4),
    "qwen2": lambda: make("qwen2", tied=True),
    "qwen2_yarn": lambda: make("qwen2", rope_scaling=YARN),
    "qwen3": lambda: make("qwen3", head_dim=32),
    "gemma3": lambda: make("gemma3", tied=True),
    "gemma3_linear": lambda: make("gemma3", tied=True, rope_scaling=LINEAR),
}
PLAIN = EngineOptions(cache_type_k="f32", cache_type_v="f32", flash_attention="off")


def export(folder: Folder, path: Path, type_: str = "F32", **how: Any) -> OnnxEngine:
    """Write the folder, export it, and open it."""
    source = folder.write(path / "hf", **how)
    export_onnx(source, path / "onnx", type_)
    return OnnxEngine(path / "onnx")


def far(one: NDArray[Any], two: NDArray[Any]) -> float:
    """The largest difference, of what both have."""
    width = min(one.shape[1], two.shape[1])
    return float(np.abs(one[:, :width] - two[:, :width]).max())


def greedy(engine: Engine, prompt: list[int], count: int) -> list[int]:
    """The `count` most likely ids, one after another."""
    ids, row = [], engine.eval(prompt)[0]
    for _ in range(count):
        ids.append(int(row.argmax()))
        row = engine.eval(ids[-1:])[0]
    return ids


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported llama model; tests that change it copy it."""
    path = tmp_path_factory.mktemp("tiny")
    export(make("llama"), path).close()
    return path / "onnx"


@pytest.fixture
def engine(tiny: Path) -> OnnxEngine:
    """An engine on the tiny model, with passes of 8 ids and a context of 40."""
    return OnnxEngine(tiny, EngineOptions(n_ctx=40, n_batch=8))


@pytest.mark.parametrize("name", MODELS)
def test_each_family_computes_what_numpy_computes(name: str, tmp_path: Path) -> None:
    folder = MODELS[name]()
    engine = export(folder, tmp_path)
    ids = [token for token in ids_of(folder, 40) if token < len(engine.vocab)]
    rows = engine.eval(ids, len(ids))
    assert rows.shape == (len(ids), len(engine.vocab))
    assert far(rows, logits(folder.config, folder.weights, ids, half_gelu=False)) < 2e-4


@pytest.mark.parametrize("name", ["llama", "llama_tied_sentencepiece", "qwen3", "gemma3"])
def test_both_engines_write_the_same_ids_and_share_a_vocabulary(name: str, tmp_path: Path) -> None:
    onnx = export(MODELS[name](), tmp_path)
    convert(tmp_path / "hf", tmp_path / "m.gguf", "F32")
    llama = LlamaEngine(tmp_path / "m.gguf", PLAIN)
    assert onnx.vocab.fingerprint == llama.vocab.fingerprint
    assert onnx.vocab.end_ids == llama.vocab.end_ids
    assert onnx.vocab.template == llama.vocab.template
    assert (onnx.vocab.bos, onnx.vocab.eos) == (llama.vocab.bos, llama.vocab.eos)
    for text in SAMPLE_LINES:
        assert onnx.vocab.tokenize(text) == llama.vocab.tokenize(text)
    control = f"{onnx.vocab.bos}a typed {onnx.vocab.eos} stays text"
    for special in (False, True):
        ids = onnx.vocab.tokenize(control, special)
        assert ids == llama.vocab.tokenize(control, special)
        assert any(token in onnx.vocab.end_ids for token in ids) == special
    prompt = onnx.vocab.tokenize(SAMPLE_LINES[0])
    assert greedy(onnx, prompt, 40) == greedy(llama, prompt, 40)
    llama.close()


@pytest.mark.parametrize("how", [{"dtype": "BF16"}, {"dtype": "F16"}, {"shards": 3}])
def test_stored_forms_are_read(how: dict[str, Any], tmp_path: Path) -> None:
    folder = make("llama")
    engine = export(folder, tmp_path, **how)
    ids = ids_of(folder, 10)
    assert far(engine.eval(ids, 10), logits(folder.config, folder.weights, ids)) < 0.2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_int8_is_small_and_near(family: str, tmp_path: Path) -> None:
    folder = make(family, width=128, hidden=256)
    engine = export(folder, tmp_path, "INT8")
    ids = ids_of(folder, 30)
    exact = logits(folder.config, folder.weights, ids, half_gelu=False)
    assert far(engine.eval(ids, 30), exact) < 0.1 * float(np.abs(exact).max())
    weights = sum(values.nbytes for values in folder.weights.values())
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size < 0.6 * weights


@pytest.mark.slow
def test_int8_is_what_the_runtimes_own_quantiser_makes(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = make("llama", width=128, hidden=256)
    table = folder.weights["model.embed_tokens.weight"]
    table[:] = table.astype(np.float16)  # ours keeps the embedding so
    ours = export(folder, tmp_path, "INT8")
    export_onnx(tmp_path / "hf", tmp_path / "theirs")
    model = tmp_path / "theirs" / "model.onnx"
    shutil.copytree(tmp_path / "theirs", tmp_path / "float")
    quantize_dynamic(
        tmp_path / "float" / "model.onnx",
        model,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    content = json.loads((tmp_path / "theirs" / "vocabulary.json").read_text())
    content["data_bytes"] = (tmp_path / "theirs" / "model.onnx.data").stat().st_size
    (tmp_path / "theirs" / "vocabulary.json").write_text(json.dumps(content))
    ids = ids_of(folder, 30)
    theirs = OnnxEngine(tmp_path / "theirs").eval(ids, 30)
    exact = logits(folder.config, folder.weights, ids)
    assert far(ours.eval(ids, 30), theirs) < 0.02 * far(theirs, exact)


def test_rows_are_those_of_the_last_ids_however_they_come(engine: OnnxEngine) -> None:
    ids = list(range(10, 40))
    whole = engine.eval(ids, 30).copy()
    assert whole.shape == (30, len(engine.vocab))
    for rows in (0, 1, 7, 8, 9, 30):
        engine.truncate(0)
        assert engine.eval(ids, rows).shape == (rows, len(engine.vocab))
        assert engine.length == 30
    engine.truncate(0)
    one_by_one = np.concatenate([engine.eval([token]).copy() for token in ids])
    assert far(one_by_one, whole) < 1e-4
    assert engine.eval([], 0).shape == (0, len(engine.vocab))


def test_what_is_rolled_back_leaves_no_trace(engine: OnnxEngine) -> None:
    ids = list(range(10, 30))
    expected = engine.eval(ids, 1).copy()
    engine.truncate(12)
    engine.eval([50, 60, 70], 1)
    engine.truncate(12)
    assert engine.length == 12
    assert far(engine.eval(ids[12:], 1), expected) < 1e-5
    engine.truncate(99)
    assert engine.length == 20


def test_a_context_of_thousands_is_grown_into(tmp_path: Path) -> None:
    engine = export(make("llama", max_position_embeddings=2000), tmp_path)
    ids = [10 + i % 50 for i in range(1500)]
    engine.eval(ids[:1499], 0)
    row = engine.eval(ids[1499:]).copy()
    engine.truncate(0)
    assert far(engine.eval(ids), row) < 1e-3


def test_too_many_ids_change_nothing(engine: OnnxEngine) -> None:
    engine.eval(list(range(10, 45)))
    with pytest.raises(ContextFull, match="no room for 6 more tokens in a context of 40"):
        engine.eval([1] * 6)
    assert engine.length == 35
    engine.eval([1] * 5)


@pytest.mark.parametrize(("tokens", "rows"), [([-1], 1), ([10**6], 1), ([1], 2), ([1], -1)])
def test_impossible_calls_change_nothing(engine: OnnxEngine, tokens: list[int], rows: int) -> None:
    engine.eval([1, 2])
    with pytest.raises(EngineError):
        engine.eval(tokens, rows)
    assert engine.length == 2


def test_a_pass_that_fails_half_way_changes_nothing(
    engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.eval([1, 2])
    run, calls = engine._session.run, []

    class Failing:
        def run(self, *args: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise RuntimeError("out of\nmemory")
            return run(*args)

    monkeypatch.setattr(engine, "_session", Failing())
    with pytest.raises(EngineError, match=r"failed to run the model \(out of\\nmemory\)"):
        engine.eval(list(range(20)))
    assert engine.length == 2


def test_closing_twice_is_fine_and_running_after_it_is_refused(engine: OnnxEngine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.eval([1])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _change(folder: Path, **values: Any) -> None:
    path = folder / "vocabulary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no_graph": (lambda f: (f / "model.onnx").unlink(), "there is no model.onnx in it"),
    "no_weights": (lambda f: (f / "model.onnx.data").unlink(), "there is no model.onnx.data"),
    "no_tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "there is no tokenizer.json"),
    "no_vocabulary": (lambda f: (f / "vocabulary.json").unlink(), "there is no vocabulary"),
    "nothing": (lambda f: shutil.rmtree(f), "there is no model.onnx in it"),
    "weights_cut": (lambda f: _cut(f / "model.onnx.data"), "copy it again"),
    "graph_cut": (lambda f: _cut(f / "model.onnx"), "onnxruntime refuses it"),
    "graph_of_zeros": (
        lambda f: (f / "model.onnx").write_bytes(bytes(100)),
        "onnxruntime refuses it",
    ),
    "other_tokenizer": (lambda f: _cut(f / "tokenizer.json"), "not the one this model"),
    "vocabulary_cut": (lambda f: _cut(f / "vocabulary.json"), "is damaged"),
    "vocabulary_a_list": (lambda f: (f / "vocabulary.json").write_text("[]"), "is damaged"),
    "other_version": (lambda f: _change(f, format=2), "another version"),
    "other_piece": (lambda f: _change(f, pieces=["x"], kinds=[1]), "is damaged (fingerprint)"),
    "lengths_differ": (lambda f: _change(f, kinds=[1]), "differ in length"),
    "huge_numbers": (lambda f: _change(f, layers=10**9), "out of range"),
    "other_layers": (lambda f: _change(f, layers=1), "does not fit"),
    "other_heads": (lambda f: _change(f, head_dim=8), "does not fit"),
    "no_pieces": (lambda f: _change(f, pieces=None), "is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(name: str, tiny: Path, tmp_path: Path) -> None:
    damage, why = DAMAGE[name]
    folder = tmp_path / "onnx"
    shutil.copytree(tiny, folder)
    damage(folder)
    with pytest.raises(ModelError) as caught:
        OnnxEngine(folder)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_export_leaves_nothing_half_done(tmp_path: Path) -> None:
    folder = make("llama")
    source, out = folder.write(tmp_path / "hf"), tmp_path / "onnx"

    def interrupt(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_onnx(source, out, progress=interrupt)
    with pytest.raises(ResourceError):
        export_onnx(source, out, free=lambda folder: 1000)
    folder.weights["model.norm.weight"][3] = np.nan
    folder.write(source)
    with pytest.raises(ModelError, match="NaN"):
        export_onnx(source, out)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_export_overwrites_nothing_and_knows_its_types(tiny: Path) -> None:
    with pytest.raises(UsageError, match="is there already"):
        export_onnx(tiny, tiny)
    with pytest.raises(UsageError, match="F32, INT8"):
        export_onnx(tiny, tiny.parent / "new", "Q4_0")
