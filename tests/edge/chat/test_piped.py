"""What people pipe in or name is read up to a size and no further."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from uhlm_edge.common.errors import DataError
from uhlm_edge.common.files import read_stream
from uhlm_edge.common.prompts import MOST_TEXT
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.chat.binding import read_files
from uhlm_edge.edge.chat.piped import filled, lines, question, turns
from uhlm_edge.edge.policy.calibration import load
from uhlm_edge.edge.policy.handoff_calibration import load_handoff

ENDLESS = Path("/dev/zero")


class Endless(io.RawIOBase):
    """A pipe that somebody fills without end, and counts what is taken."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = b"x" * len(buffer)
        self.taken += len(buffer)
        return len(buffer)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    pipe = Endless()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(pipe)))
    return pipe


@pytest.mark.parametrize("prompt", ["-", None, "What is this?"])
def test_no_more_of_a_pipe_is_read_than_a_prompt_may_have(
    endless: Endless, prompt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uhlm_edge.edge.chat.piped._is_piped", lambda: True)
    with pytest.raises(DataError, match="stdin: larger than 16 MB"):
        question(prompt)
    assert endless.taken <= MOST_TEXT + (1 << 20)


def test_no_more_of_a_line_is_read_than_a_prompt_may_have(endless: Endless) -> None:
    with pytest.raises(DataError, match="a line larger than 16 MB"):
        list(turns(lines(sys.stdin.buffer), pytest.fail))
    assert endless.taken <= MOST_TEXT + (1 << 20)


def test_what_is_between_quotes_ends_too() -> None:
    taken = 0

    def said() -> Iterator[bytes]:
        nonlocal taken
        for line in itertools.chain([b'"""\n'], itertools.repeat(b"x" * 99_999 + b"\n")):
            taken += len(line)
            yield line

    with pytest.raises(DataError, match='between """ is more than 16 MB'):
        list(turns(said(), pytest.fail))
    assert taken <= MOST_TEXT + 100_000


def test_a_stream_of_just_the_size_is_read() -> None:
    assert read_stream(io.BytesIO(b"abc"), 3, "it") == b"abc"
    with pytest.raises(DataError, match=r"^it: larger than 2 B; give a part of it$"):
        read_stream(io.BytesIO(b"abc"), 2, "it")


@pytest.mark.skipif(not ENDLESS.exists(), reason="needs a file without end")
@pytest.mark.parametrize(
    "read",
    [
        load,
        load_handoff,
        lambda path: load_config({}, file=path, environment={}),
        lambda path: filled(path, "Hello"),
        lambda path: read_files(path, None),
        lambda path: read_files(None, path),
    ],
    ids=["calibration", "handoff", "config", "template", "grammar", "schema"],
)
def test_no_more_of_a_file_is_read_than_such_a_file_may_have(read: Callable[[Path], Any]) -> None:
    with pytest.raises(DataError, match="/dev/zero: larger than"):
        read(ENDLESS)
