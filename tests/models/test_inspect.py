"""`inspect`: the header of a file, readable, and harmless whatever the file says."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ModelError
from uhlm_edge.common.text import human_bytes
from uhlm_edge.models.inspect import inspect

from ..lm.gguf.gguf_files import ARCHITECTURE, F32, STRING, array, gguf, key, tensor, write


def test_the_shipped_model_is_summed_up() -> None:
    with resources.as_file(resources.files("uhlm_edge.models") / "demo-slm.Q4_K_M.gguf") as path:
        text = inspect(path)
    assert "architecture  llama" in text
    assert "parameters    4,458,240" in text
    assert "quantisation  Q4_K_M, 5.59 bits per weight" in text
    assert "vocabulary    8,192 tokens" in text
    assert 'tokenizer.ggml.pre                      "qwen2"' in text
    assert "Q4_K       19  2,129,920   1.2 MB  38.5%" in text
    assert "blk.0.attn_k.weight" not in text


def test_every_tensor_is_listed_on_demand(tmp_path: Path) -> None:
    path = write(tmp_path, gguf(tensors=[tensor("one", (8, 4))]))
    assert "one  F32  8x4  128 B" in inspect(path, tensors=True)


def test_long_values_stay_on_one_short_line(tmp_path: Path) -> None:
    keys = [
        ARCHITECTURE,
        key("tokenizer.chat_template", STRING, "{{ x }}\n" * 500),
        array("floats", F32, [0.5] * 1000),
        array("words", STRING, ["w" * 500] * 20),
        key("k" * 3000, STRING, "v"),
    ]
    text = inspect(write(tmp_path, gguf(keys)))
    assert "4,000 characters" in text
    assert "1,000 x f32: [0.5, 0.5" in text
    assert max(len(line) for line in text.splitlines()) < 160


def test_what_the_file_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;x\x07\u202e\r\nfake line"
    keys = [
        key("general.architecture", STRING, evil),
        key("general.name", STRING, evil),
        key(evil, STRING, evil),
        array("a", STRING, [evil]),
    ]
    text = inspect(write(tmp_path, gguf(keys, [tensor(evil)])), tensors=True)
    assert not set("\x1b\x07\u202e\r") & set(text)
    assert not any(line.startswith("fake") for line in text.splitlines())


def test_a_file_with_nothing_in_it_is_still_shown(tmp_path: Path) -> None:
    text = inspect(write(tmp_path, gguf([], [], 0)))
    assert "parameters    0" in text


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        inspect(write(tmp_path, gguf()[:-1]))


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (3_384_672, "3.38 MB"),
        (999_600_000, "1 GB"),
        (42_520_000_000, "42.5 GB"),
        (5_000_000_000_000_000, "5,000 TB"),
    ],
)
def test_sizes_are_for_people(n_bytes: int, text: str) -> None:
    assert human_bytes(n_bytes) == text
