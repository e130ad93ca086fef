"""The models known by name, and what file names say about quantisation."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ..common.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0", "BF16", "F16", "F32")
"""Which type is taken when none is asked for: the first of these that a repository has."""

_TYPE = re.compile(r"(?<![A-Za-z0-9])((?:IQ|TQ|Q)\d(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|BF16|F16|F32)")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue. `sizes` are bytes, and `sha256` hex digests, per type."""

    name: str
    repo: str
    source: str
    parameters: int
    licence: str
    sizes: Mapping[str, int]
    sha256: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    gated: bool = False


@dataclass(frozen=True)
class Name:
    """What a user asked for: a repository, a type or None, and the catalogue's entry or None."""

    repo: str
    type: str | None
    entry: Entry | None = None


def load() -> dict[str, Entry]:
    """Return the catalogue by name."""
    return {name: Entry(name=name, **values) for name, values in _read()["models"].items()}


def pairs() -> dict[str, tuple[str, str]]:
    """Return the pairs by name: the model for the device, the model for the cloud."""
    return {name: (pair["device"], pair["cloud"]) for name, pair in _read()["pairs"].items()}


def _read() -> dict[str, Any]:
    text = (resources.files(__package__ or "") / "catalogue.toml").read_text("utf-8")
    return tomllib.loads(text)


def parse_name(text: str, type_: str | None = None) -> Name:
    """Read NAME, NAME:TYPE, OWNER/REPO or OWNER/REPO:TYPE.

    Raises:
        UsageError: neither a name of the catalogue nor a repository.
    """
    name, _, asked = text.strip().partition(":")
    wanted = (asked or type_ or "").upper() or None
    entry = load().get(name.lower())
    if entry is not None and wanted == "SAFETENSORS":
        return Name(entry.source, wanted)  # what the GGUF files were made of
    if entry is not None:
        return Name(entry.repo, wanted, entry)
    if _REPO.fullmatch(name) and ".." not in name:
        known = (entry for entry in load().values() if entry.repo.lower() == name.lower())
        return Name(name, wanted, next(known, None))
    raise UsageError(
        f"{name!r} is no model of the catalogue ({', '.join(load())});"
        " give one of these or OWNER/REPO"
    )


def type_of(file_name: str) -> str | None:
    """Return the quantisation that a file name says it has, in capitals; None if it says none."""
    found = _TYPE.findall(file_name.rpartition("/")[2].upper())
    return found[-1] if found else None


def preferred(types: Iterable[str]) -> str | None:
    """Return the type to take when none was asked for; None if it is not clear."""
    types = list(dict.fromkeys(types))
    for name in PREFERRED:
        if name in types:
            return name
    return types[0] if len(types) == 1 else None
