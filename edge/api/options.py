"""Keyword arguments that mirror the configuration, from `strategy="uhlm"` to `device={...}`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.errors import UsageError
from ...configs.config import Config
from ...configs.flags import FLAG_KEYS
from ...configs.layers import leaves

Key = tuple[str, ...]
"""Where a value lies in the configuration: ("sampler", "temperature")."""

_SECTIONS = tuple(Config.model_fields)
_LOADED = {"partner", "calibration", "estimator", "samples"}

REPLY_OPTIONS = tuple(
    name
    for name, key in FLAG_KEYS.items()
    if key[0] in ("strategy", "sampler", "chat") and name not in _LOADED
)
"""What a single reply may set: nothing of it needs a model to be loaded again."""


def keys_of(options: Mapping[str, Any]) -> dict[Key, Any]:
    """The keys of the configuration that options set.

    Args:
        options: named as the flags of `uhlm-edge run` are (`top_k=1`); or a section of the
            configuration with a mapping (`device={"engine": {"n_ctx": 2048}}`).

    Raises:
        UsageError: an option of that name does not exist; the message suggests one.
    """
    keys: dict[Key, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and name in _SECTIONS:
            keys.update(leaves(value, (name,)))
        elif name in FLAG_KEYS:
            keys[FLAG_KEYS[name]] = _plain(name, value)
        else:
            raise UsageError(_unknown(name, [*FLAG_KEYS, *_SECTIONS]))
    return keys


def reply_keys_of(options: Mapping[str, Any]) -> dict[Key, Any]:
    """The same for the options of one reply; those of a model that is loaded are refused.

    Raises:
        UsageError: no option of a reply has that name.
    """
    for name in options:
        if name not in REPLY_OPTIONS:
            if name in FLAG_KEYS or name in _SECTIONS:
                raise UsageError(f"{name} is set once, in Hybrid.load(..., {name}=...)")
            raise UsageError(_unknown(name, [*REPLY_OPTIONS, "stop"]))
    return keys_of(options)


def _plain(name: str, value: Any) -> Any:
    if name == "pipelined" and isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, Path) else value


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"no option {name!r}; " + (
        f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known))}"
    )
