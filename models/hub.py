"""`uhlm-edge pull`: a model from the Hugging Face hub, verified, at a commit that is kept.

Only GGUF files, or the safetensors and text files of a Hugging Face
folder, are ever downloaded: nothing that runs code when it is opened.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from ..common.errors import ModelError, ResourceError, UsageError
from ..common.files import free_bytes, require_space
from ..lm.gguf.check import check
from .catalogue import Name, parse_name, preferred, type_of
from .download import Progress, RemoteFile, fetch
from .hub_api import ask_hub, login_headers, require_digest
from .store import SAFETENSORS, Manifest, Store, Stored, StoredFile, default_folder

FOLDER_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What is taken of a Hugging Face folder; never a pickle, never a program."""


@dataclass(frozen=True)
class Pulled:
    """A model that is there now. `received` is the bytes that came over the network."""

    stored: Stored
    received: int


@dataclass(frozen=True)
class _Plan:
    type: str
    commit: str
    licence: str | None
    files: list[RemoteFile]


def pull(
    name: str,
    type_: str | None = None,
    *,
    folder: Path | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
    progress: Progress | None = None,
    free: Callable[[Path], int] = free_bytes,
    wait: Callable[[float], None] = time.sleep,
) -> Pulled:
    """Download a model unless it is there.

    Args:
        name: of the catalogue, or OWNER/REPO; either with :TYPE.
        type_: such as "Q4_K_M"; "safetensors" for the Hugging Face folder. Without one, the
            first of `catalogue.PREFERRED` that there is, or else the folder.
        folder: of the store; by default `store.default_folder`.
        revision: a commit, tag or branch. Without one, the commit pulled before, else the
            catalogue's, else the newest.
        endpoint: the hub's address; by default HF_ENDPOINT or the public hub.
        token: a login; by default HF_TOKEN or the one saved by the hub's own tools.
        progress: told of every piece that came.
        free: bytes free on the disk of a folder.
        wait: sleeps between two tries, for so many seconds.

    Raises:
        UsageError: no such name, type or revision; a login is needed; offline mode.
        ModelError: a file is not what was announced, or the header check refuses it.
        ResourceError: no room on the disk; the network failed.
    """
    asked = parse_name(name, type_)
    store = Store(folder or default_folder(os.environ))
    manifest = store.manifest(asked.repo)
    if manifest and revision is None and (stored := _present(store, asked, manifest)):
        return Pulled(stored, 0)
    pinned = revision or (manifest.commit if manifest else None)
    if pinned is None and asked.entry:
        pinned = asked.entry.revision
    plan = _plan(asked, pinned, endpoint, token)
    if (stored := store.find(asked.repo, plan.type)) and stored.commit == plan.commit:
        return Pulled(stored, 0)
    _require_space(store, asked.repo, plan, free)
    with _lock(store, asked.repo):
        received = _download(
            store,
            asked.repo,
            plan,
            partial(fetch, headers=login_headers(token), progress=progress, wait=wait),
        )
        _settle(store, asked.repo, plan)
    done = store.find(asked.repo, plan.type)
    if done is None:
        raise ModelError(f"{asked.repo}: its files vanished while they were put in place")
    return Pulled(done, received)


def _present(store: Store, asked: Name, manifest: Manifest) -> Stored | None:
    types = {file.type for file in manifest.files.values()}
    wanted = _folder_type(asked.type) or preferred(types - {SAFETENSORS})
    if wanted is None and types == {SAFETENSORS}:
        wanted = SAFETENSORS
    return store.find(asked.repo, wanted) if wanted else None


def _folder_type(type_: str | None) -> str | None:
    return SAFETENSORS if type_ == SAFETENSORS.upper() else type_


def _plan(
    asked: Name, revision: str | None, endpoint: str | None, token: str | bool | None
) -> _Plan:
    """Ask the hub what the repository holds, and choose."""
    found = ask_hub(asked.repo, revision, endpoint, token)
    type_, names = _choose(asked, {name: file.size for name, file in found.files.items()})
    files = [found.files[name] for name in names]
    for file in files:
        require_digest(asked.repo, file)
    known = asked.entry.sha256.get(type_) if asked.entry else None
    if known and [file.digest for file in files] != [known]:
        raise ModelError(
            f"{asked.repo}:{type_} is not the file that the catalogue knows by its SHA-256;"
            " update uhlm-edge, or choose another type"
        )
    licence = found.licence or (asked.entry.licence if asked.entry else None)
    return _Plan(type_, found.commit, licence, files)


def _choose(asked: Name, sizes: Mapping[str, int]) -> tuple[str, list[str]]:
    """Return the type and the names of its files (several for a model in parts)."""
    models: dict[str, list[str]] = {}
    for name in sorted(sizes):
        base = name.rpartition("/")[2].lower()
        if base.endswith(".gguf") and "mmproj" not in base and "imatrix" not in base:
            models.setdefault(type_of(name) or "GGUF", []).append(name)
    wanted = _folder_type(asked.type) or preferred(models)
    if wanted is None and models:
        raise UsageError(f"{asked.repo}: choose a type: {_offer(models, sizes)}")
    if wanted in models:
        names = models[wanted]
        if len(names) > 1 and len({_stem(name) for name in names}) > 1:
            raise UsageError(f"{asked.repo}: several files have the type {wanted}: {names}")
        return wanted, names
    folder = [
        name
        for name in sorted(sizes)
        if not name.startswith(".")
        and "/" not in name
        and any(fnmatch(name, pattern) for pattern in FOLDER_FILES)
    ]
    is_model = "config.json" in folder and any(n.endswith(".safetensors") for n in folder)
    if wanted in (None, SAFETENSORS) and is_model:
        return SAFETENSORS, folder
    if models:
        raise UsageError(
            f"{asked.repo} has no {wanted}; it has {_offer(models, sizes)}"
            + (f", {SAFETENSORS}" if is_model else "")
        )
    if is_model:
        raise UsageError(
            f"{asked.repo} has no GGUF files, only safetensors: pull {asked.repo}:{SAFETENSORS}"
            f" and make {wanted} with `uhlm-edge quantize`"
        )
    raise UsageError(f"{asked.repo} has neither GGUF files nor a safetensors folder")


def _stem(name: str) -> str:
    """The name without the number of its part."""
    stem, _, count = name.lower().removesuffix(".gguf").rpartition("-of-")
    return f"{stem[:-5]}{count}" if stem[-5:].isdigit() and count.isdigit() else name


def _offer(models: Mapping[str, list[str]], sizes: Mapping[str, int]) -> str:
    return ", ".join(
        f"{type_} ({sum(sizes[name] for name in names) / 1e9:.2f} GB)"
        for type_, names in sorted(models.items())
    )


def _require_space(store: Store, repo: str, plan: _Plan, free: Callable[[Path], int]) -> None:
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{store.folder}: cannot be made ({error.strerror}); set UHLM_MODELS to another folder"
        ) from error
    folder = store.partial(repo) / plan.commit
    need = sum(file.size for file in plan.files)
    for file in plan.files:
        for path in (folder / file.name, _part(folder / file.name)):
            need -= path.stat().st_size if path.is_file() else 0
    require_space(store.folder, need, free, "set UHLM_MODELS to a folder on another disk")


@contextmanager
def _lock(store: Store, repo: str) -> Iterator[None]:
    """One pull of a repository at a time; a second one is told so at once."""
    from filelock import FileLock, Timeout

    folder = store.partial(repo)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{repo} is being pulled by another process; wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _download(
    store: Store, repo: str, plan: _Plan, fetch_one: Callable[[RemoteFile, Path], int]
) -> int:
    """Fetch every file into the partial folder; a file loses its `.part` when it is verified."""
    received = 0
    for file in plan.files:
        path = store.partial(repo) / plan.commit / file.name
        if path.is_file() and path.stat().st_size == file.size:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        received += fetch_one(file, _part(path))
        _part(path).replace(path)
    return received


def _settle(store: Store, repo: str, plan: _Plan) -> None:
    """Check the header, move the files to their final place, and write the manifest."""
    folder, place = store.partial(repo) / plan.commit, store.place(repo)
    if plan.type != SAFETENSORS:
        try:
            check(folder / min(file.name for file in plan.files))
        except ModelError:
            shutil.rmtree(folder)
            raise
    manifest = store.manifest(repo) or Manifest(repo, plan.commit)
    manifest.commit, manifest.licence = plan.commit, plan.licence
    for name, old in list(manifest.files.items()):
        if old.type == plan.type:  # of another commit: both cannot stay under one name
            (place / name).unlink(missing_ok=True)
            del manifest.files[name]
    if manifest.files or place.exists():
        store.save(manifest)
    for file in plan.files:
        final = place / file.name
        final.parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).replace(final)
        manifest.files[file.name] = StoredFile(plan.type, file.size, file.digest, plan.commit)
    store.save(manifest)
    shutil.rmtree(folder)
