"""Files are whole or not there, whoever else writes them and whatever stops the writer."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ResourceError
from uhlm_edge.common.files import atomic_output, remove_stale, write_whole


def test_two_writers_of_one_process_do_not_clash(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with atomic_output(path) as one, atomic_output(path) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"  # renamed last
    contents = [bytes([65 + i]) * 50_000 for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_whole(path, content), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    stale, own = (
        tmp_path / f".a.gguf.{child.pid}-0f.part",
        tmp_path / f".a.gguf.{os.getpid()}-0f.part",
    )
    other = tmp_path / f".b.gguf.{child.pid}-0f.part"
    for part in (stale, own, other):
        part.touch()
    remove_stale(tmp_path, "a.gguf")
    assert sorted(tmp_path.iterdir()) == sorted([own, other])


def test_what_was_there_stays_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"before")

    def interrupted() -> None:
        with atomic_output(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_whole(tmp_path / "file" / "below", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_whole(tmp_path / "folder", b"x")


@pytest.mark.skipif(sys.platform == "win32", reason="no file-size limits")
def test_a_file_size_limit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path;"
        "from uhlm_edge.common.errors import ResourceError;"
        "from uhlm_edge.common.files import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n write_whole(Path(sys.argv[1]), bytes(5000))\n"
        "except ResourceError as error:\n print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True
    )
    assert "a file may not become so large" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
