"""What cannot be converted is refused in one line that says why, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uhlm_edge.common.errors import ModelError, ResourceError
from uhlm_edge.common.files import atomic_output
from uhlm_edge.quantize.convert import folder as convert_module
from uhlm_edge.quantize.convert.checkpoint import Checkpoint
from uhlm_edge.quantize.convert.families import read_layout
from uhlm_edge.quantize.convert.folder import convert, plan_conversion
from uhlm_edge.quantize.convert.reference import reference_tokenizer
from uhlm_edge.quantize.convert.tokenizer import read_tokenizer

from .tiny_models import Folder, make


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(folder: Folder, path: Path, match: str, **options: Any) -> None:
    src = folder.write(path / "hf", **options)
    (path / "out").mkdir()
    with pytest.raises(ModelError, match=match) as caught:
        convert(src, path / "out" / "m.gguf")
    assert "\n" not in str(caught.value)
    assert left(path / "out") == []


@pytest.mark.parametrize("name", ["MistralForCausalLM", "BertModel"])
def test_an_unsupported_architecture_is_named_with_what_is_supported(
    name: str, tmp_path: Path
) -> None:
    folder = make("llama")
    folder.config["architectures"] = [name]
    refuse(folder, tmp_path, f"{name} is not supported; supported are LlamaForCausalLM, Qwen2")


def test_a_config_without_an_architecture_is_refused(tmp_path: Path) -> None:
    folder = make("llama")
    del folder.config["architectures"]
    refuse(folder, tmp_path, "no architecture, model_type 'llama'")


BAD_SETTINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    "window": ("qwen2", {"use_sliding_window": True}, "use_sliding_window"),
    "heads": ("llama", {"num_key_value_heads": 3}, "do not fit"),
    "no layers": ("llama", {"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    "text for a number": ("llama", {"hidden_size": "64"}, "hidden_size = '64'"),
    "rope": ("llama", {"rope_scaling": {"rope_type": "dynamic"}}, "'dynamic' is not supported"),
    "rope factor": ("llama", {"rope_scaling": {"type": "linear"}}, "factor = None is not a number"),
    "part of a head": ("llama", {"partial_rotary_factor": 0.5}, "on a part of a head"),
    "query scale": ("gemma3", {"query_pre_attn_scalar": 7, "tied": True}, "scales gemma3 queries"),
    "layer kinds": ("gemma3", {"layer_types": ["full_attention"]}, "differ in length"),
    "vocabulary": ("llama", {"vocab_size": 1 << 40}, "vocab_size = 1099511627776"),
    "quantised": ("llama", {"quantization_config": {"bits": 4}}, "quantised already"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_setting_that_would_come_out_wrong_is_refused(name: str, tmp_path: Path) -> None:
    family, config, match = BAD_SETTINGS[name]
    folder = make(family)
    folder.config |= config
    refuse(folder, tmp_path, match)


ODD: tuple[Any, ...] = (
    None, "x", -1, 0, 1.5, 1e308, float("nan"), 10**30, True, [], {}, [1], {"a": 1}
)  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_no_value_in_a_config_gets_through_as_another_error(family: str) -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.0, "beta_fast": 32}
    config = make(family, rope_scaling=scaling).config | {
        "rope_parameters": {"rope_type": "default"}
    }
    for key in (*config, "text_config", "layer_types"):
        for value in ODD:
            with contextlib.suppress(ModelError):
                read_layout({**config, key: value})
    for key in scaling:
        for value in ODD:
            odd = {**config, "rope_parameters": None, "rope_scaling": {**scaling, key: value}}
            with contextlib.suppress(ModelError):
                read_layout(odd)


@pytest.mark.parametrize("file", ["config", "generation", "settings"])
def test_odd_special_tokens_are_refused_or_passed_over(file: str, tmp_path: Path) -> None:
    keys = ("eos_token_id", "bos_token_id", "pad_token_id", "eos_token", "chat_template")
    folder = make("llama", layers=1)
    before = dict(getattr(folder, file))
    for n, key in enumerate(keys):
        for value in (*ODD, "\ud800"):
            setattr(folder, file, {**before, key: value})
            with contextlib.suppress(ModelError):
                read_tokenizer(Checkpoint(folder.write(tmp_path / str(n))))


@pytest.mark.parametrize("key", ["continuing_subword_prefix", "end_of_word_suffix", "dropout"])
def test_parts_of_bpe_that_llama_cpp_lacks_are_refused(key: str, tmp_path: Path) -> None:
    folder = make("llama", layers=1)
    content = json.loads(folder.tokenizer)
    content["model"][key] = 0.5 if key == "dropout" else "x"
    folder.tokenizer = json.dumps(content)
    refuse(folder, tmp_path, f"a BPE with {key} is not supported")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    src = make("llama").write(tmp_path / "hf", shards=3)
    (src / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"shard model-00002-of-00003.safetensors is missing"):
        plan_conversion(src)


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    src = make("llama").write(tmp_path / "hf", shards=2)
    index = src / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    places["weight_map"]["model.norm.weight"] = "../../secret.safetensors"
    index.write_text(json.dumps(places))
    with pytest.raises(ModelError, match="outside its folder"):
        plan_conversion(src)


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01, 0.0])
def test_a_truncated_file_is_named(keep: float, tmp_path: Path) -> None:
    src = make("llama").write(tmp_path / "hf")
    file = src / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(ModelError, match=r"model.safetensors: is truncated"):
        plan_conversion(src)


def entry(**changes: Any) -> bytes:
    header = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    header["a"] |= changes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 16


BAD_FILES = {
    "a huge header": struct.pack("<Q", 1 << 60) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"abcd",
    "a list": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "negative offsets": entry(data_offsets=[-16, 0]),
    "offsets backwards": entry(data_offsets=[16, 0]),
    "another size": entry(data_offsets=[0, 8]),
    "a negative shape": entry(shape=[-2, -2]),
    "no shape": entry(shape=None),
    "an infinite shape": entry(shape=[float("inf")]),
    "halves in a shape": entry(shape=[2.0, 2]),
    "an infinite offset": entry(data_offsets=[0, float("inf")]),
    "offsets of text": entry(data_offsets=["a", "b"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_damaged_safetensors_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(BAD_FILES[name])
    with pytest.raises(ModelError, match=r"model.safetensors"):
        Checkpoint(tmp_path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without end")
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_link_to_what_has_no_end_is_not_followed_to_its_end(file: str, tmp_path: Path) -> None:
    src = make("llama").write(tmp_path / "hf")
    (src / file).unlink(missing_ok=True)
    (src / file).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=r"larger than 256 MB|too large"):
        read_tokenizer(Checkpoint(src))


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"]
)
def test_a_file_of_a_terabyte_is_not_read_into_memory(file: str, tmp_path: Path) -> None:
    src = make("llama").write(tmp_path / "hf")
    with (src / file).open("ab" if file.endswith(".jinja") else "r+b") as stream:
        if file.endswith(".safetensors"):
            stream.write(struct.pack("<Q", 1 << 39))
        stream.truncate(1 << 40)
    with pytest.raises(ModelError, match=r"larger than 256 MB|a header of|too large"):
        plan_conversion(src)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="pickled"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_weights_that_are_no_numbers_name_their_tensor(
    value: float, dtype: str, tmp_path: Path
) -> None:
    folder = make("llama")
    folder.weights["model.layers.1.mlp.up_proj.weight"][5, 7] = value
    refuse(folder, tmp_path, r"tensor model.layers.1.mlp.up_proj.weight holds NaN", dtype=dtype)


def test_weights_too_large_for_a_half_say_what_to_use(tmp_path: Path) -> None:
    folder = make("llama")
    folder.weights["lm_head.weight"][0, 0] = 1e6
    refuse(folder, tmp_path, "too large for F16; convert to BF16")
    convert(tmp_path / "hf", tmp_path / "m.gguf", "BF16")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = make("llama")
    del folder.weights["model.layers.0.mlp.up_proj.weight"]
    refuse(folder, tmp_path, r"blk.0.ffn_up.weight is missing")


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    folder = make("llama")
    folder.weights["model.layers.0.self_attn.q_norm.weight"] = np.ones(16, np.float32)
    refuse(folder, tmp_path, r"q_norm.weight has no place in llama")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = make("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    folder.weights[name] = folder.weights[name][:, :-1]
    refuse(folder, tmp_path, r"has shape \(96, 63\), config.json says \(96, 64\)")


def test_a_full_disk_is_noticed_before_writing(tmp_path: Path) -> None:
    src = make("llama").write(tmp_path / "hf")
    with pytest.raises(ResourceError, match=r"are needed and 1 MB are free"):
        convert(src, tmp_path / "out" / "m.gguf", free=lambda folder: 1_000_000)
    assert left(tmp_path / "out") == []


def test_a_disk_that_fills_up_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def fill_up() -> None:
        with atomic_output(path) as part:
            part.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="disk is full"):
        fill_up()
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["m.gguf"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_an_interrupted_conversion_leaves_nothing(
    error: type[BaseException], tmp_path: Path
) -> None:
    src = make("llama").write(tmp_path / "hf")

    def stop(done: int, total: int, what: str) -> None:
        if done > total / 2:
            raise error

    with pytest.raises(error):
        convert(src, tmp_path / "out" / "m.gguf", progress=stop)
    assert left(tmp_path / "out") == []


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead = tmp_path / ".m.gguf.999999999.part"
    alive = tmp_path / f".m.gguf.{os.getppid()}.part"
    for path in (dead, alive):
        path.write_bytes(b"half")
    with atomic_output(tmp_path / "m.gguf") as part:
        part.write_bytes(b"whole")
    assert left(tmp_path) == [alive.name, "m.gguf"]


def test_a_difference_in_ids_stops_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = make("llama", rule="qwen2").write(tmp_path / "hf")
    other = make("llama", rule="gpt-2")
    other_src = other.write(tmp_path / "other")
    monkeypatch.setattr(
        convert_module,
        "reference_tokenizer",
        lambda checkpoint: reference_tokenizer(Checkpoint(other_src)),
    )
    with pytest.raises(ModelError, match="splits text differently"):
        convert(src, tmp_path / "out" / "m.gguf")
    assert not (tmp_path / "out").exists()
