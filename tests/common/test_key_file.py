"""Key files: who may read them, and what is no key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.common.keys import read_key_file, server_keys


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    """A key file with that content."""
    path = folder / "keys"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_file_has_a_key_per_line_and_remarks(tmp_path: Path) -> None:
    path = key_file(tmp_path, b"# mine\nsk-one-123456789  \n\n  sk-two-123456789\r\n# sk-old\n")
    assert read_key_file(path) == ["sk-one-123456789", "sk-two-123456789"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o602, 0o777])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        read_key_file(key_file(tmp_path, b"sk-canary", mode))
    assert "canary" not in str(caught.value)


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-file"):
        read_key_file(tmp_path / "no-such-file")
    with pytest.raises(ConfigError) as caught:
        read_key_file(key_file(tmp_path, b"sk-canary\xff\n"))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# sk-old-123456789012\n"])
def test_a_key_file_without_a_key_is_an_error_and_not_an_open_door(
    content: bytes, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no key"):
        read_key_file(key_file(tmp_path, content))


@pytest.mark.parametrize(
    "line",
    ["sk-canary-12345", "sk-canary 123456789", "sk-canary-1234567\x1b", "sk-canary-\u00e9" * 4],
)
def test_a_key_that_is_short_or_no_header_is_refused_by_its_line(line: str, tmp_path: Path) -> None:
    path = key_file(tmp_path, f"sk-good-123456789\n{line}\n".encode())
    with pytest.raises(ConfigError, match="line 2") as caught:
        read_key_file(path)
    assert "canary" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files")
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)  # nobody writes to it: to read would wait for ever
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="is no plain file"):
            read_key_file(path)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = key_file(tmp_path, b"")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="too large"):
        read_key_file(path)


@pytest.mark.parametrize("key", ["sk-canary-12345", "sk-canary 123456789", "sk-canary-\u00e9" * 4])
def test_a_key_in_a_variable_is_held_to_the_same(key: str) -> None:
    with pytest.raises(ConfigError, match="the key in UHLM_SERVE_KEY is") as caught:
        server_keys({"UHLM_SERVE_KEY": key}, "UHLM_SERVE_KEY", None)
    assert "canary" not in str(caught.value)
    assert server_keys({"UHLM_SERVE_KEY": ""}, "UHLM_SERVE_KEY", None) == []
