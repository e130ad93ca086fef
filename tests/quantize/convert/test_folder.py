"""A converted model computes what its Hugging Face folder means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.common.errors import UsageError
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.quantize.convert.folder import convert

from ..tiny_models import Folder, ids_of, make
from . import forward

EXACT = EngineOptions(
    cache_type_k="f32",
    cache_type_v="f32",
    flash_attention="off",
    n_threads=1,
    n_threads_batch=1,
)


def run(path: Path, ids: list[int]) -> NDArray[np.float32]:
    engine = LlamaEngine(path, EXACT, max_rows=len(ids))
    try:
        rows: NDArray[np.float32] = engine.eval(ids, rows=len(ids)).copy()
        return rows
    finally:
        engine.close()


def differences(folder: Folder, path: Path, **options: Any) -> NDArray[Any]:
    """Of the logits of 24 ids, in size; positions beyond the sliding window are among them."""
    ids = ids_of(folder, 24)
    theirs = forward.logits(folder.config, folder.weights, ids, **options)
    ours = run(path, ids)
    result: NDArray[Any] = np.abs(ours - theirs[:, : ours.shape[1]])
    return result


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, Callable[[], Folder]] = {
    "llama": lambda: make("llama"),
    "llama tied": lambda: make("llama", tied=True),
    "llama with a head wider than its share": lambda: make("llama", head_dim=32),
    "llama with biases": lambda: make("llama", attention_bias=True),
    "llama, llama3 positions": lambda: make("llama", rope_scaling=LLAMA3, head_dim=64),
    "llama, linear positions": lambda: make(
        "llama", rope_scaling={"rope_type": "linear", "factor": 3.0}
    ),
    "llama, yarn positions": lambda: make("llama", rope_scaling=YARN, head_dim=64),
    "llama, yarn with its own attention factor": lambda: make(
        "llama", rope_scaling={**YARN, "attention_factor": 1.3}, head_dim=64
    ),
    "llama with SentencePiece": lambda: make("llama", spm=True),
    "llama, SmolLM's cut": lambda: make("llama", rule="smollm", tied=True),
    "llama, Llama 3's cut": lambda: make("llama", rule="llama-bpe"),
    "llama, GPT-2's cut": lambda: make("llama", rule="gpt-2"),
    "qwen2": lambda: make("qwen2"),
    "qwen2 tied": lambda: make("qwen2", tied=True),
    "qwen2, yarn positions": lambda: make("qwen2", rope_scaling=YARN, head_dim=64, width=256),
    "qwen3": lambda: make("qwen3", head_dim=32),
    "qwen3 tied": lambda: make("qwen3", tied=True),
    "gemma3": lambda: make("gemma3", tied=True, layers=3),
    "gemma3, linear positions": lambda: make(
        "gemma3", tied=True, layers=3, rope_scaling={"rope_type": "linear", "factor": 8.0}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = CASES[name]()
    convert(folder.write(tmp_path / "hf"), tmp_path / "model.gguf", "F32")
    # gemma: ggml's GELU is a float16 table, and float32 noise moves an entry now and then
    limit = 1.5e-3 if name.startswith("gemma3") else 2e-4
    assert differences(folder, tmp_path / "model.gguf").max() < limit


def test_what_llama_cpp_does_differently_to_gemma_is_its_gelu_table(tmp_path: Path) -> None:
    folder = CASES["gemma3"]()
    convert(folder.write(tmp_path / "hf"), tmp_path / "model.gguf", "F32")
    exact = differences(folder, tmp_path / "model.gguf", half_gelu=False)
    table = differences(folder, tmp_path / "model.gguf", half_gelu=True)
    assert np.median(exact) > 5 * np.median(table)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_stored_halves_are_read_and_written(dtype: str, tmp_path: Path) -> None:
    folder = make("llama")
    for name, values in folder.weights.items():  # weights that both halves hold exactly
        bits = values.astype(np.float16).astype(np.float32).view(np.uint32) & 0xFFFF0000
        folder.weights[name] = bits.view(np.float32)
    src = folder.write(tmp_path / "hf", dtype)
    convert(src, tmp_path / "wide.gguf", "F32")
    convert(src, tmp_path / "half.gguf", dtype)
    ids = ids_of(folder, 8)
    assert differences(folder, tmp_path / "wide.gguf").max() < 2e-4
    assert np.abs(run(tmp_path / "half.gguf", ids) - run(tmp_path / "wide.gguf", ids)).max() < 0.05


def test_shards_give_the_same_file(tmp_path: Path) -> None:
    folder = make("qwen2")
    for name, shards in (("one", 1), ("three", 3)):
        convert(folder.write(tmp_path / name / "hf", shards=shards), tmp_path / f"{name}.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()


def test_settings_of_transformers_5_mean_the_same(tmp_path: Path) -> None:
    old = make("gemma3", tied=True, layers=3)
    new = make("gemma3", tied=True, layers=3)
    for key in ("rope_theta", "rope_local_base_freq", "sliding_window_pattern"):
        del new.config[key]
    new.config["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    new.config["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    for name, folder in (("old", old), ("new", new)):
        convert(folder.write(tmp_path / name / "hf"), tmp_path / f"{name}.gguf")
    assert (tmp_path / "old.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()


def test_the_text_part_of_a_model_with_vision_is_taken(tmp_path: Path) -> None:
    folder = make("gemma3", tied=True)
    plain = folder.config
    convert(folder.write(tmp_path / "text" / "hf"), tmp_path / "text.gguf")
    folder.config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {k: v for k, v in plain.items() if k != "architectures"},
    }
    folder.weights = {f"language_model.{name}": value for name, value in folder.weights.items()}
    folder.weights["vision_tower.patch.weight"] = np.zeros((4, 4), np.float32)
    convert(folder.write(tmp_path / "both" / "hf"), tmp_path / "both.gguf")
    assert (tmp_path / "text.gguf").read_bytes() == (tmp_path / "both.gguf").read_bytes()


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    src = make("llama").write(tmp_path / "hf")
    convert(src, tmp_path / "m.gguf", progress=lambda done, total, what: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_padding_rows_are_no_part_of_the_vocabulary(tmp_path: Path) -> None:
    folder = make("llama", extra_rows=40)
    convert(folder.write(tmp_path / "hf"), tmp_path / "m.gguf")
    rows = folder.config["vocab_size"]
    assert check(tmp_path / "m.gguf").n_vocab == rows
    assert run(tmp_path / "m.gguf", [1, 2]).shape == (2, rows - 40)


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="F13"):
        convert(make("llama").write(tmp_path / "hf"), tmp_path / "m.gguf", "F13")
