"""Answers of a hub that have no bounds, and names that clash with ours."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ResourceError
from uhlm_edge.models import command, download, hub_api
from uhlm_edge.models.store import SAFETENSORS, Store

from .hub_server import MODEL, Hub, get, refused

pytest.importorskip("huggingface_hub")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def endless() -> Iterator[bytes]:
    """A description of a model that never ends."""
    yield HEAD + b'\r\n{"sha": "'
    while True:
        yield b"a" * 65536


def packed() -> Iterator[bytes]:
    """Small on the way, and 300 MB unpacked."""
    packer = zlib.compressobj(1, wbits=31)
    yield HEAD + b"Content-Encoding: gzip\r\n\r\n"
    yield packer.compress(b'{"sha": "')
    for _ in range(300):
        yield packer.compress(b"a" * (1 << 20))
    yield packer.compress(b'"}') + packer.flush()


def deep() -> Iterator[bytes]:
    """Nested 2 million times."""
    yield HEAD + b'\r\n{"sha": "a", "siblings": ' + b"[" * (2 << 20)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(endless, "more than 16 MiB"), (packed, "no description"), (deep, "no description")],
)
def test_an_answer_without_bounds_is_bounded(
    answer: Callable[[], Iterator[bytes]], why: str, hub: Hub, tmp_path: Path
) -> None:
    hub.answer = answer
    tracemalloc.start()
    try:
        assert why in refused(hub, tmp_path, ResourceError)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def dripping(*beginning: bytes) -> Callable[[], Iterator[bytes]]:
    def drip() -> Iterator[bytes]:
        yield from beginning
        while True:
            time.sleep(0.01)
            yield b" "

    return drip


@pytest.mark.parametrize("beginning", [HEAD + b"\r\n{", HEAD + b"X-More:"], ids=["body", "head"])
def test_an_answer_that_drips_ends(
    beginning: bytes, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_api, "MAX_SECONDS", 0.2)
    hub.answer = dripping(beginning)
    assert "too slowly" in refused(hub, tmp_path, ResourceError)


@pytest.mark.parametrize("part", ["body", "head"])
def test_a_download_that_drips_is_kept_and_ends(
    part: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part == "body":
        monkeypatch.setattr(download, "WINDOW", 0.05)
        hub.content = dripping(HEAD + b"\r\nGGUF")
        why = "are too slow"
    else:
        monkeypatch.setattr(download, "HEAD_SECONDS", 0.05)
        hub.content = dripping(HEAD + b"X-More:")
        why = "does not answer in 0.05 s"
    message = refused(hub, tmp_path, ResourceError)
    assert why in message
    assert "run it again to go on" in message
    assert len(hub.asked("/resolve/")) == download.TRIES


def test_what_the_hub_says_cannot_steer_the_terminal(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its licence, and a name that the bar of progress would take for markup."""
    hub.files = {"m[/x].Q4_K_M.gguf": MODEL}
    hub.licence = "mit\x1b]0;owned\x07\x1b[2J\u202e"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command.pull("maker/model")
    said = capsys.readouterr().err
    assert "licence mit\\x1b]0;owned\\x07\\x1b[2J\\u202e\n" in said
    assert "m[/x].Q4_K_M.gguf" in said
    assert not set(said) & {"\x1b", "\x07", "\u202e"}


def test_a_repository_with_a_manifest_of_its_own_can_be_pulled(hub: Hub, tmp_path: Path) -> None:
    own = {"manifest.json": b"[1]", "config.json": b"{}", "model.safetensors": b"x"}
    hub.files = {**own, ".pulled.json": b"hostile", ".hidden.json": b"{}"}
    place = get(hub, tmp_path).stored.path
    assert (place / "manifest.json").read_bytes() == b"[1]"
    assert not (place / ".hidden.json").exists()
    assert Store(tmp_path).find("maker/model", SAFETENSORS) is not None
    assert get(hub, tmp_path).received == 0
