"""From options to an engine that runs elsewhere."""

from __future__ import annotations

from typing import Literal

from .http import JsonClient
from .protocol import Upstream
from .sglang import SglangUpstream
from .vllm import VllmUpstream


def open_upstream(
    kind: Literal["vllm", "sglang"],
    url: str,
    key: str | None = None,
    top: int = 40,
    model: str | None = None,
    timeout: float = 30.0,
) -> Upstream:
    """Ask an engine who it is.

    Args:
        kind: what it is.
        url: where it is.
        key: for it.
        top: how many ids it is to tell of a position.
        model: which of those it serves; None: the first.
        timeout: seconds for one question.

    Raises:
        ConfigError: the URL is none.
        ModelError: it does not serve the model, or tells fewer ids.
        EngineError: it does not answer.
    """
    client = JsonClient(url, key, timeout)
    if kind == "vllm":
        return VllmUpstream(client, top, model)
    return SglangUpstream(client, top, model)
