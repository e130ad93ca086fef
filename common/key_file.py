"""API keys in a file that only its owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import ConfigError

__all__ = ["read_key_file"]


def read_key_file(path: Path) -> list[str]:
    """The keys in a file, one a line; lines that begin with # are remarks.

    Raises:
        ConfigError: it cannot be read, or others than its owner can read it.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key file {path}: {error}") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"key file {path} can be read by others; run: chmod 600 {path}")
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
