"""Answers of a hub that have no bounds, and names that clash with ours."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ResourceError
from uhlm_edge.models import hub_api
from uhlm_edge.models.store import SAFETENSORS, Store

from .hub_server import Hub, get, refused

pytest.importorskip("huggingface_hub")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def endless() -> Iterator[bytes]:
    """A description of a model that never ends."""
    yield HEAD + b'\r\n{"sha": "'
    while True:
        yield b"a" * 65536


def packed() -> Iterator[bytes]:
    """Small on the way, and 300 MB unpacked."""
    yield HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(300 << 20), 1)


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
        if answer is not packed:  # the server of the test makes that one in this process
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_an_answer_that_drips_ends(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip() -> Iterator[bytes]:
        yield HEAD + b"\r\n{"
        while True:
            time.sleep(0.01)
            yield b" "

    monkeypatch.setattr(hub_api, "MAX_SECONDS", 0.2)
    hub.answer = drip
    assert "too slowly" in refused(hub, tmp_path, ResourceError)


def test_a_repository_with_a_manifest_of_its_own_can_be_pulled(hub: Hub, tmp_path: Path) -> None:
    own = {"manifest.json": b"[1]", "config.json": b"{}", "model.safetensors": b"x"}
    hub.files = {**own, ".pulled.json": b"hostile", ".hidden.json": b"{}"}
    place = get(hub, tmp_path).stored.path
    assert (place / "manifest.json").read_bytes() == b"[1]"
    assert not (place / ".hidden.json").exists()
    assert Store(tmp_path).find("maker/model", SAFETENSORS) is not None
    assert get(hub, tmp_path).received == 0
