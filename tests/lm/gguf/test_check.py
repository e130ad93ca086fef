"""The header check: what a bad file is refused with, and that a good one passes."""

from __future__ import annotations

import math
import os
import struct
import sys
from importlib import resources
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ModelError
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.lm.gguf.header import ArraySummary
from uhlm_edge.lm.gguf.types import FILE_TYPES, TENSOR_TYPES, VALUE_TYPES

from .gguf_files import (
    ARCHITECTURE,
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U16,
    U32,
    U64,
    array,
    gguf,
    key,
    tensor,
    text,
    vocabulary,
    write,
)

HUGE = (1 << 64) - 1
TWO = (tensor("a"), tensor("b", offset=128))


def settings(**values: float) -> bytes:
    """A file with keys below `llama.`."""
    kinds = {int: U32, float: F32}
    return gguf([ARCHITECTURE, *(key(f"llama.{k}", kinds[type(v)], v) for k, v in values.items())])


BAD = {
    # the file as a whole
    "empty": (b"", "empty"),
    "only_the_magic": (b"GGUF", "ends after 4 bytes"),
    "magic": (gguf(magic=b"GGUX"), "not a GGUF file"),
    "version_1": (gguf(version=1), "version 1"),
    "version_4": (gguf(version=4), "version 4"),
    "big_endian": (gguf(version=3 << 24), "big-endian"),
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page"),
    "safetensors": (struct.pack("<Q", 20) + b'{"a": {"dtype": 1}}' + bytes(90), "safetensors"),
    "zip": (b"PK\x03\x04" + bytes(99), "zip archive"),
    "pickle": (b"\x80\x02}q\x00" + bytes(99), "pickle"),
    "lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "old_ggml": (b"tjgg" + bytes(99), "GGML file of 2023"),
    "weights_cut_off": (gguf()[:-1], "truncated"),
    # counts
    "keys_without_end": (gguf(n_keys=HUGE), "claims 18446744073709551615 keys"),
    "more_keys_than_bytes": (gguf(n_keys=60_000), "60000 keys do not fit"),
    "one_key_too_many": (gguf(n_keys=2), "."),
    "tensors_without_end": (gguf(n_tensors=HUGE), "claims 18446744073709551615 tensors"),
    "more_tensors_than_bytes": (gguf(n_tensors=60_000), "60000 tensors do not fit"),
    # keys and values
    "key_longer_than_the_file": (
        gguf([struct.pack("<Q", 60_000) + b"k" + struct.pack("<I", U32)]),
        "truncated: a key",
    ),
    "key_of_huge_length": (gguf([struct.pack("<Q", HUGE) + bytes(99)]), "a key is 18446744073"),
    "key_empty": (gguf([key("", U32, 1)]), "a key is empty"),
    "key_with_zero_byte": (gguf([key("a\0b", U32, 1)]), "zero byte"),
    "key_not_utf8": (gguf([key(b"\xff\xfe", U32, 1)]), "not UTF-8"),
    "key_twice": (gguf([key("a", U32, 1), key("a", U32, 1)]), "comes twice"),
    "value_of_unknown_type": (gguf([key("a", 13, b"\0" * 8)]), "unknown type 13"),
    "string_of_huge_length": (
        gguf([key("a", STRING, struct.pack("<Q", HUGE - 7) + b"x")]),
        "the limit is",
    ),
    "string_longer_than_the_file": (
        gguf([key("a", STRING, struct.pack("<Q", 1 << 20) + b"x")]),
        "truncated: the value of 'a'",
    ),
    # arrays
    "array_of_huge_length": (gguf([array("a", U32, [1], claimed=HUGE)]), "claims 18446744073"),
    "array_whose_size_overflows": (gguf([array("a", U64, [1], claimed=1 << 61)]), "claims 2305"),
    "array_longer_than_the_file": (gguf([array("a", U32, [1], claimed=999)]), "claims 999 items"),
    "array_of_arrays": (
        gguf([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 20)]),
        "array of arrays",
    ),
    "array_of_unknown_type": (gguf([key("a", ARRAY, struct.pack("<IQ", 77, 1))]), "type 77"),
    "strings_without_end": (gguf([array("a", STRING, ["x"], claimed=HUGE)]), "the limit is"),
    "strings_beyond_the_file": (
        gguf([array("a", STRING, ["x"] * 40, claimed=60)]),
        "an item of the array 'a'",
    ),
    "string_in_array_of_huge_length": (
        gguf([key("a", ARRAY, struct.pack("<IQ", STRING, 1) + struct.pack("<Q", HUGE))]),
        "is 18446744073709551615 bytes long",
    ),
    "late_string_in_array_of_huge_length": (
        gguf(
            [
                key(
                    "a",
                    ARRAY,
                    struct.pack("<IQ", STRING, 20) + text("x") * 19 + struct.pack("<Q", HUGE),
                )
            ]
        ),
        "is 18446744073709551615 bytes long",
    ),
    # alignment
    "alignment_zero": (gguf([key("general.alignment", U32, 0)]), "not a power of two"),
    "alignment_odd": (gguf([key("general.alignment", U32, 48)]), "not a power of two"),
    "alignment_huge": (gguf([key("general.alignment", U32, 1 << 31)]), "not a power of two"),
    "alignment_text": (gguf([key("general.alignment", STRING, "32")]), "not a power of two"),
    "alignment_bool": (gguf([key("general.alignment", BOOL, True)]), "not a u32"),
    "alignment_of_another_width": (gguf([key("general.alignment", U64, 32)]), "is not a u32"),
    # tensors
    "tensor_twice": (gguf(tensors=[tensor("a"), tensor("a", offset=128)], data=256), "comes twice"),
    "tensor_without_name": (gguf(tensors=[tensor("")]), "is empty"),
    "tensor_name_too_long": (gguf(tensors=[tensor("n" * 64)]), "64 bytes long"),
    "tensor_name_not_utf8": (gguf(tensors=[tensor(b"\xff")]), "not UTF-8"),
    "no_dimensions": (gguf(tensors=[tensor(shape=())]), "0 dimensions"),
    "five_dimensions": (gguf(tensors=[tensor(shape=(1,) * 5)]), "5 dimensions"),
    "dimension_zero": (gguf(tensors=[tensor(shape=(8, 0))]), "impossible shape"),
    "dimension_negative": (gguf(tensors=[tensor(shape=(8, HUGE))]), "impossible shape"),
    "product_overflows_to_a_small_one": (
        gguf(tensors=[tensor(shape=(1 << 32, 1 << 32, 1, 1))]),
        "impossible shape",
    ),
    "bytes_overflow": (gguf(tensors=[tensor(shape=(1 << 62,))]), "truncated: tensor 0"),
    "tensor_type_unknown": (gguf(tensors=[tensor(kind=99)]), "type 99"),
    "tensor_type_withdrawn": (gguf(tensors=[tensor(kind=4)]), "type 4"),
    "tensor_type_of_activations": (gguf(tensors=[tensor(shape=(256, 1), kind=15)]), "type 15"),
    "row_not_whole_blocks": (
        gguf(tensors=[tensor(shape=(48, 2), kind=2)]),
        "multiples of 32",
    ),
    "offset_not_aligned": (gguf(tensors=[tensor(offset=8)], data=256), "not a multiple of 32"),
    "offset_outside": (gguf(tensors=[tensor(offset=1 << 40)]), "truncated: tensor 0"),
    "offset_wraps_round": (gguf(tensors=[tensor(offset=HUGE - 31)]), "truncated: tensor 0"),
    "tensors_overlap": (gguf(tensors=[tensor("a"), tensor("b", offset=96)], data=256), "overlap"),
    # the vocabulary: llama.cpp reads these by position
    "tokens_not_strings": (gguf([array("tokenizer.ggml.tokens", U32, [1])]), "array of strings"),
    "tokens_not_an_array": (gguf([key("tokenizer.ggml.tokens", U32, 1)]), "array of strings"),
    "scores_too_few": (
        gguf(
            [
                array("tokenizer.ggml.tokens", STRING, ["a", "b"]),
                array("tokenizer.ggml.scores", F32, [0.0]),
            ]
        ),
        "1 items for 2 tokens",
    ),
    "types_of_another_width": (
        gguf(
            [
                array("tokenizer.ggml.tokens", STRING, ["a", "b"]),
                array("tokenizer.ggml.token_type", U16, [1, 1]),
            ]
        ),
        "not an array of i32",
    ),
    "the_same_token_twice": (
        gguf([array("tokenizer.ggml.tokens", STRING, [*map(str, range(40)), "39"])]),
        "the same token more than once",
    ),
    "the_same_token_twice_at_the_start": (
        gguf([array("tokenizer.ggml.tokens", STRING, ["a", "a"])]),
        "the same token more than once",
    ),
    "too_many_tokens": (
        gguf([array("tokenizer.ggml.tokens", STRING, [""] * (1 << 20 | 1))]),
        "claims 1048577 tokens",
    ),
    "no_vocabulary": (
        gguf([key("tokenizer.ggml.model", STRING, "none"), array("tokenizer.ggml.tokens", 8, [])]),
        "there is no vocabulary",
    ),
    # what llama.cpp aborts on, or worse
    "matrix_of_integers": (gguf(tensors=[tensor(kind=26)]), "I32, which no layer"),
    "matrix_of_doubles": (gguf(tensors=[tensor(kind=28)], data=256), "F64, which no layer"),
    "vector_of_halves": (gguf(tensors=[tensor(shape=(64,), kind=1)]), "vectors must be F32"),
    "no_layers": (settings(block_count=0), "block_count is 0"),
    "huge_vocabulary": (
        gguf([ARCHITECTURE, key("llama.vocab_size", U64, 1 << 40)]),
        "vocab_size is 1099511627776",
    ),
    "too_many_layers": (settings(block_count=513), "block_count is 513"),
    "more_extra_layers_than_layers": (
        settings(block_count=2, nextn_predict_layers=3),
        "exceeds block_count",
    ),
    "epsilon_below_zero": (settings(x_epsilon=-1.0), "'x_epsilon' is -1.0"),
    "epsilon_no_number": (settings(x_epsilon=math.nan), "'x_epsilon' is nan"),
    "frequency_infinite": (settings(rope_base=math.inf), "'rope_base' is inf"),
    "too_many_experts": (settings(expert_count=1025, expert_used_count=2), "1024 is the most"),
    "more_experts_used_than_there_are": (
        settings(expert_count=2, expert_used_count=5),
        "is 5 of 2",
    ),
    "no_expert_used": (settings(expert_count=2), "is 0 of 2"),
    "groups_without_experts": (settings(expert_group_count=1), "is 1 for 0 experts"),
    "groups_that_do_not_divide": (
        settings(expert_count=8, expert_used_count=2, expert_group_count=3),
        "is 3 for 8 experts",
    ),
    "no_group_used": (
        settings(expert_count=8, expert_used_count=2, expert_group_count=4),
        "expert_group_used_count does not fit",
    ),
    "unknown_scaling": (
        gguf([ARCHITECTURE, key("llama.rope.scaling.type", STRING, "zzz")]),
        "rope.scaling.type is 'zzz'",
    ),
    "merges_not_strings": (
        gguf(
            [
                array("tokenizer.ggml.tokens", STRING, ["a"]),
                array("tokenizer.ggml.merges", I32, [1]),
            ]
        ),
        "merges is not an array of strings",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_that_says_why(name: str, tmp_path: Path) -> None:
    content, why = BAD[name]
    path = write(tmp_path, content)
    with pytest.raises(ModelError) as caught:
        check(path)
    message = str(caught.value)
    assert why in message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    assert caught.value.exit_code == 3


def test_a_good_file_gives_its_header(tmp_path: Path) -> None:
    keys = [
        ARCHITECTURE,
        key("general.file_type", U32, 15),
        key("general.alignment", U32, 64),
        array("general.tags", STRING, ["a", "b"]),
        *vocabulary(40),
    ]
    tensors = [tensor("a", (64, 2), kind=2), tensor("b", (3,), offset=128)]
    header = check(write(tmp_path, gguf(keys, tensors, data=140, alignment=64)))
    assert header.architecture == "llama"
    assert header.file_type == "Q4_K_M"
    assert header.alignment == 64
    assert header.parameters == 131
    assert header.n_vocab == 40
    assert header.metadata["general.tags"] == ArraySummary("string", 2, ("a", "b"))
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, ArraySummary)
    assert tokens.head == tuple(f"tok{i}" for i in range(16))
    one, two = header.tensors
    assert (one.name, one.shape, one.type, one.n_bytes) == ("a", (64, 2), "Q4_0", 72)
    assert two.offset - one.offset == 128
    assert two.offset + two.n_bytes == header.file_size


def test_mixtures_of_experts_and_files_that_are_no_model_pass(tmp_path: Path) -> None:
    values = {"block_count": 512, "expert_count": 8, "expert_used_count": 2}
    check(write(tmp_path, settings(**values, expert_group_count=4, expert_group_used_count=2)))
    check(write(tmp_path, settings(**values, norm_epsilon=1e-6)))
    check(write(tmp_path, gguf([], [tensor(shape=(64,), kind=1)])))
    blanks = array("tokenizer.ggml.tokens", STRING, ["", "", "a", *[""] * 20])
    check(write(tmp_path, gguf([ARCHITECTURE, blanks])))


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_in_use_pass(version: int, tmp_path: Path) -> None:
    assert check(write(tmp_path, gguf(version=version))).version == version


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = gguf([ARCHITECTURE, *vocabulary(20)], TWO, data=256)
    for end in range(len(content)):
        with pytest.raises(ModelError):
            check(write(tmp_path, content[:end]))


def test_a_missing_file_a_folder_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        check(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="uhlm-edge quantize"):
        check(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        check("a\0b")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="not a regular file"):
        check(tmp_path / "pipe.gguf")


def test_a_hostile_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path, gguf([key("\x1b]0;x\x07", 99, b"")]), "a\x1b[2Jb.gguf")
    with pytest.raises(ModelError) as caught:
        check(path)
    assert "\x1b" not in str(caught.value)
    assert "\x07" not in str(caught.value)


def _part(number: int, count: int, name: str) -> bytes:
    keys = [key("split.no", U16, number), key("split.count", U16, count)]
    return gguf([ARCHITECTURE, *keys], [tensor(name)])


def test_a_model_in_parts_is_checked_whole(tmp_path: Path) -> None:
    first = write(tmp_path, _part(0, 2, "a"), "m-00001-of-00002.gguf")
    with pytest.raises(ModelError, match=r"m-00002-of-00002\.gguf: there is no such file"):
        check(first)
    write(tmp_path, _part(1, 2, "b")[:-1], "m-00002-of-00002.gguf")
    with pytest.raises(ModelError, match=r"m-00002-of-00002\.gguf: it is truncated"):
        check(first)
    write(tmp_path, _part(0, 2, "b"), "m-00002-of-00002.gguf")
    with pytest.raises(ModelError, match="disagree on which part"):
        check(first)
    write(tmp_path, _part(1, 2, "a"), "m-00002-of-00002.gguf")
    with pytest.raises(ModelError, match="same name"):
        check(first)
    write(tmp_path, _part(1, 2, "b"), "m-00002-of-00002.gguf")
    header = check(first)
    assert [tensor.name for tensor in header.tensors] == ["a", "b"]
    assert header.n_parts == 2
    with pytest.raises(ModelError, match="not named so"):
        check(write(tmp_path, _part(0, 2, "a"), "other.gguf"))


@pytest.mark.parametrize("name", ["demo-slm.Q4_K_M.gguf", "demo-llm.Q6_K.gguf"])
def test_the_shipped_models_pass(name: str) -> None:
    with resources.as_file(resources.files("uhlm_edge.models") / name) as path:
        header = check(path)
    assert header.architecture == "llama"
    assert header.file_type == name.split(".")[1]
    assert header.n_vocab == 8192
    assert header.parameters in (4_458_240, 26_222_080)


def test_a_vocabulary_is_checked_with_a_few_calls_for_each_token(tmp_path: Path) -> None:
    path = write(tmp_path, gguf([ARCHITECTURE, *vocabulary(20_000)]))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        check(path)
    finally:
        sys.setprofile(None)
    assert calls < 10 * 20_000  # and not a pass over all for each


def test_the_tensor_types_are_those_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    theirs = {
        int(kind): (kind.name, *constants.GGML_QUANT_SIZES[kind])
        for kind in constants.GGMLQuantizationType
        if kind.name not in ("Q8_1", "Q8_K")  # for activations only
    }
    ours = {number: tuple(kind) for number, kind in TENSOR_TYPES.items()}
    assert {number: ours.get(number) for number in theirs} == theirs


def test_the_file_and_value_types_are_those_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    files = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in constants.LlamaFileType
        if kind.name != "GUESSED"
    }
    assert {number: FILE_TYPES.get(number) for number in files} == files
    assert set(VALUE_TYPES) == {int(kind) for kind in constants.GGUFValueType}
