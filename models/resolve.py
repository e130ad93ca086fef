"""From whatever people call a model to its file: the one place that reads such names."""

from __future__ import annotations

import os
from pathlib import Path

from ..common.errors import ModelError, UsageError
from ..common.text import one_line
from . import shipped
from .catalogue import load, parse_name, preferred
from .store import SAFETENSORS, Store, default_folder


def find_model(name: str) -> Path:
    """The file of a model, to be opened: `locate_model`, and a shipped one is checked.

    Raises:
        ModelError: there is none, it was not pulled yet, or a shipped file is damaged.
    """
    path = locate_model(name)
    shipped.verify(path)
    return path


def locate_model(name: str) -> Path:
    """Where the model lies that is called so; nothing of it is read.

    Args:
        name: of the shipped pair; a path; or what was pulled: a name of the catalogue or
            OWNER/REPO, either with :TYPE.

    Raises:
        ModelError: there is none, or it was not pulled yet.
    """
    if name in shipped.SHIPPED:
        return shipped.path_of(name)
    path = Path(os.path.expanduser(name))
    if name and os.path.exists(path):  # unlike Path's own, it takes any name
        return path
    try:
        asked = parse_name(name)
    except UsageError:
        known = ", ".join([*shipped.SHIPPED, *load()])
        raise ModelError(
            f"no model {one_line(name, 100)}: give the path of a GGUF file, OWNER/REPO, or one of"
            f" {known}"
        ) from None
    store = Store(default_folder(os.environ))
    manifest = store.manifest(asked.repo)
    types = {file.type for file in manifest.files.values()} if manifest else set()
    wanted = asked.type or preferred(types - {SAFETENSORS})
    pulled = store.find(asked.repo, wanted) if wanted in types and wanted else None
    if pulled is None:
        raise ModelError(f"{name} is not here yet; run: uhlm-edge pull {name}")
    return pulled.path


def model_source(name: str, type_: str | None = None) -> Path:
    """What a model is to be made from: a path, or a name, which is pulled if it is not here.

    Args:
        name: a path, a name of the catalogue, or OWNER/REPO.
        type_: of the files that are pulled when the name has no :TYPE.

    Raises:
        UsageError: it is neither a path that is there nor a name.
        ModelError, ResourceError: the pull failed.
    """
    path = Path(os.path.expanduser(name))
    if name and os.path.exists(path):
        return path
    if name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1:
        raise UsageError(f"{name}: there is no such file or folder")
    from .hub import pull

    return pull(name, None if ":" in name else type_).stored.path
