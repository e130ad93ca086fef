"""uhlm-edge: a small model on the device that asks a large one in the cloud only when unsure.

>>> from uhlm_edge import Hybrid
>>> with Hybrid.load("demo") as hybrid:
...     print(hybrid.chat("What is the capital of Peru?"))
The capital of Peru is Lima.

Importing the package is cheap: a name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .common.errors import (
        CloudError,
        ConfigError,
        EngineError,
        ModelError,
        UhlmError,
        UsageError,
    )
    from .edge.api.hybrid import Hybrid
    from .edge.api.reply import AsyncReply, Reply, provenance
    from .edge.events import SkippedVerdict, Token
    from .edge.stats import Stats

__version__ = "0.1.0"

__all__ = [
    "AsyncReply", "CloudError", "ConfigError", "EngineError", "Hybrid", "ModelError", "Reply",
    "SkippedVerdict", "Stats", "Token", "UhlmError", "UsageError", "__version__", "provenance",
]  # fmt: skip

_HOME = {
    **dict.fromkeys(["CloudError", "ConfigError", "EngineError"], "common.errors"),
    **dict.fromkeys(["ModelError", "UhlmError", "UsageError"], "common.errors"),
    **dict.fromkeys(["AsyncReply", "Reply", "provenance"], "edge.api.reply"),
    "Hybrid": "edge.api.hybrid",
    "SkippedVerdict": "edge.events",
    "Stats": "edge.stats",
    "Token": "edge.events",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
