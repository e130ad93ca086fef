"""The demo pair, shipped with the package, and the checksums it must have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import ModelError

FOLDER = Path(__file__).resolve().parent
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Shipped:
    """A model file of the package: its name, its size in bytes and the SHA-256 of its content."""

    file: str
    size: int
    sha256: str


SHIPPED = {
    "demo-slm": Shipped(
        "demo-slm.Q4_K_M.gguf",
        3_384_672,
        "e18c721c9a098a436749ba75e684a6b4c0b6bafc8c2e8b0a93c8759838c68220",
    ),
    "demo-llm": Shipped(
        "demo-llm.Q6_K.gguf",
        21_807_776,
        "e65bba4fa872681d03813233aa1d0b2e2ce7ea4c06be2f0aa35ae5bb743caff2",
    ),
}
"""The shipped models by the name a profile calls them."""


def path_of(name: str) -> Path:
    """Return where the shipped model `name` lies; `verify` says whether it is whole.

    Raises:
        ModelError: no model of that name is shipped.
    """
    try:
        return FOLDER / SHIPPED[name].file
    except KeyError:
        raise ModelError(
            f"no model named {name!r} is shipped: use {' or '.join(SHIPPED)}, or a path to a file"
        ) from None


def verify(path: Path) -> None:
    """Refuse a shipped model file that is not what was shipped; other files pass unread.

    Raises:
        ModelError: the file is missing, cannot be read or its content has changed.
    """
    path = path.absolute()
    shipped = {model.file: model for model in SHIPPED.values()}.get(path.name)
    if shipped is None or path.parent.resolve() != FOLDER:
        return
    try:
        whole = path.stat().st_size == shipped.size and _sha256(path) == shipped.sha256
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}: reinstall uhlm-edge") from error
    if not whole:
        raise ModelError(f"{path}: damaged, its checksum is wrong: reinstall uhlm-edge")


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex (`hashlib.file_digest` came with Python 3.11)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
