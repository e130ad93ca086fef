"""A hub on loopback for every test that pulls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .hub_server import MODEL, Q8, Hub, HubServer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached directly."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one model in two types."""
    with HubServer(Hub(files={"m.Q4_K_M.gguf": MODEL, "m.Q8_0.gguf": Q8})) as hub:
        yield hub
