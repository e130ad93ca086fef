"""Key files, and which addresses need a key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uhlm_edge.cloud.keys import Keys
from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.server import bind
from uhlm_edge.common.errors import ConfigError, ResourceError
from uhlm_edge.common.key_file import read_key_file


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_file_has_a_key_per_line_and_remarks(tmp_path: Path) -> None:
    path = key_file(tmp_path, b"# mine\nsk-one  \n\n  sk-two\r\n# sk-old\n")
    assert read_key_file(path) == ["sk-one", "sk-two"]


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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.org"])  # noqa: S104
def test_an_address_that_others_reach_wants_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="wants a key"):
        bind(VerifierOptions(host=host, port=0), Keys())


def test_this_machine_needs_none_and_a_port_in_use_is_said_at_once() -> None:
    with bind(VerifierOptions(port=0), Keys()) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        listener.listen()
        with pytest.raises(ResourceError, match=f"port {port}.*--port"):
            bind(VerifierOptions(port=port), Keys())
