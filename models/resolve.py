"""From the name of a model to its file."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import ModelError
from . import shipped

__all__ = ["find_model"]


def find_model(name: str) -> Path:
    """The file of a model: a path, or the name of a shipped one.

    Raises:
        ModelError: there is none.
    """
    if name in shipped.SHIPPED:
        return shipped.path_of(name)
    path = Path(name).expanduser()
    if not path.exists():
        names = ", ".join(sorted(shipped.SHIPPED))
        raise ModelError(f"no model {name}: give the path of a GGUF file, or one of {names}")
    return path
