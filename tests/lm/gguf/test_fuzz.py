"""Whatever bytes a file has: a header or a refusal, in bounded time and memory, nothing else."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uhlm_edge.common.errors import ModelError
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.lm.gguf.header import Header

from .gguf_files import ARCHITECTURE, STRING, U32, array, gguf, key, tensor, vocabulary

GOOD = gguf(
    [
        ARCHITECTURE,
        key("general.alignment", U32, 32),
        key("general.name", STRING, "a name"),
        array("general.tags", STRING, ["x", "yy"]),
        *vocabulary(18),
    ],
    [tensor("a", (64, 2), kind=2), tensor("b", offset=96), tensor("c", (2,), offset=224)],
    data=256,
)
EDGES = [bytes(8), b"\xff" * 8, b"\x00" * 7 + b"\x80", b"\xff" * 7 + b"\x7f", b"\x01" + bytes(7)]
BYTES = 4 << 20


def outcome(path: Path, content: bytes) -> Header | None:
    """Check `content`; a header, or None if refused. Anything else fails the test."""
    path.write_bytes(content)
    return checked(path, len(content))


def checked(path: Path, size: int) -> Header | None:
    """The outcome of a file that is there."""
    try:
        header = check(path)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return None
    for one in header.tensors:
        assert 0 < one.offset < one.offset + one.n_bytes <= size
    return header


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The good file with some places overwritten, cut, or moved."""
    content = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            patch = draw(st.sampled_from(EDGES))
            content[at : at + len(patch)] = patch
        elif kind == 2:
            content[at : at + draw(st.integers(1, 16))] = b""
        else:
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        if not content:
            break
    return bytes(content)


@given(damaged())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused_or_sound(tmp_path: Path, content: bytes) -> None:
    outcome(tmp_path / "f.gguf", content)


@given(st.binary(max_size=200))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_after_a_magic_are_refused_or_sound(tmp_path: Path, tail: bytes) -> None:
    outcome(tmp_path / "f.gguf", b"GGUF\x03\x00\x00\x00" + tail)


@pytest.mark.slow
def test_every_flipped_bit_and_every_edge_number_is_refused_or_sound(tmp_path: Path) -> None:
    path = tmp_path / "f.gguf"
    assert outcome(path, GOOD) is not None
    with path.open("r+b", buffering=0) as file:  # to write 18,000 whole files takes longer
        for at in range(len(GOOD)):
            flipped = [bytes([GOOD[at] ^ 1 << bit]) for bit in range(8)]
            for patch in [*flipped, *EDGES]:
                good = GOOD[at : at + len(patch)]
                file.seek(at)
                file.write(patch[: len(good)])
                checked(path, len(GOOD))
                file.seek(at)
                file.write(good)
    assert path.read_bytes() == GOOD


@pytest.mark.slow
def test_two_thousand_random_files_stay_in_bounded_memory(tmp_path: Path) -> None:
    path, rng = tmp_path / "f.gguf", random.Random(20)
    tracemalloc.start()
    try:
        for _ in range(2_000):
            content = bytearray(GOOD)
            for _ in range(rng.randint(1, 6)):
                content[rng.randrange(len(content))] = rng.choice((0, 1, 8, 9, 127, 128, 255))
            outcome(path, bytes(content))
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
