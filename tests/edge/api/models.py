"""The demo pair in this process: a device, and a verifier with no network in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uhlm_edge.common.prompts import Message
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.api.hybrid import Hybrid
from uhlm_edge.edge.api.options import keys_of
from uhlm_edge.edge.link.in_process import load_partner

ASKED: list[Message] = [
    {"role": "user", "content": "I would like to book a table for two in Albany tonight."}
]
PERU: list[Message] = [{"role": "user", "content": "What is the capital of Peru?"}]

ONE_THREAD = {"UHLM_DEVICE_ENGINE_N_THREADS": "1", "UHLM_VERIFIER_ENGINE_N_THREADS": "1"}
"""Each: on a machine that is busy, threads that wait for one another take seconds a token."""


@contextmanager
def demo(alone: bool = False, **options: Any) -> Iterator[Hybrid]:
    """The demo pair, or its device alone; nothing of the user's configuration."""
    fixed = {
        "seed": 1,
        "max_tokens": 40,
        "threshold": 0.15,
    }  # one that learns would not repeat itself
    given = keys_of({**fixed, "offline": alone, **options})
    config = load_config(given, "demo", environment=ONE_THREAD).config
    link = None if alone else load_partner(config)
    with Hybrid(config, link=link, environment={}) as hybrid:
        yield hybrid
