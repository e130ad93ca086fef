"""The folder of pulled models: what is in it, where it came from, how much room it takes.

FOLDER/OWNER/REPO/.pulled.json        repository, licence, and each file's commit and digest
FOLDER/OWNER/REPO/model.Q4_K_M.gguf   files in their final place are verified
FOLDER/.partial/OWNER--REPO/          what is being downloaded
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from ..common.errors import ModelError, UsageError
from ..common.files import write_whole

SAFETENSORS = "safetensors"
"""What stands for a type when a whole Hugging Face folder is meant."""

_MANIFEST = ".pulled.json"  # no file of a repository is pulled whose name begins with a dot
_MOST = 16 << 20  # bytes of a manifest
_PARTIAL = ".partial"


@dataclass(frozen=True)
class StoredFile:
    """A file of a manifest: its type (or "safetensors"), bytes, digest, and commit."""

    type: str
    size: int
    digest: str
    commit: str


@dataclass
class Manifest:
    """What is known of a repository's files. `commit` is the one last pulled: it is kept."""

    repo: str
    commit: str
    licence: str | None = None
    files: dict[str, StoredFile] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """A model in the store: `path` is the GGUF (its first part), or the Hugging Face folder."""

    repo: str
    type: str
    path: Path
    n_bytes: int
    commit: str
    licence: str | None


def default_folder(env: Mapping[str, str]) -> Path:
    """Return UHLM_MODELS, or uhlm-edge/models in the user's data folder."""
    if env.get("UHLM_MODELS"):
        return Path(env["UHLM_MODELS"]).expanduser()
    data = env.get("XDG_DATA_HOME") or ""
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "uhlm-edge" / "models"


class Store:
    """The models in `folder`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, repo: str) -> Path:
        """Where the files of `repo` are."""
        owner, _, name = repo.partition("/")
        return self.folder / owner / name

    def partial(self, repo: str) -> Path:
        """Where the files of `repo` are while they are downloaded."""
        return self.folder / _PARTIAL / repo.replace("/", "--")

    def manifest(self, repo: str) -> Manifest | None:
        """Return what is known of `repo`, None if nothing was pulled.

        Raises:
            ModelError: the manifest cannot be read.
        """
        from pydantic import TypeAdapter

        path = self.place(repo) / _MANIFEST
        try:
            if path.stat().st_size > _MOST:
                raise ValueError("too large")
            manifest = TypeAdapter(Manifest).validate_json(path.read_bytes(), strict=True)
            for name in manifest.files:
                safe_name(name)
            return manifest
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: damaged; remove its folder and pull again") from error

    def save(self, manifest: Manifest) -> None:
        """Write a manifest beside its files, whole or not at all."""
        path = self.place(manifest.repo) / _MANIFEST
        write_whole(path, (json.dumps(asdict(manifest), indent=1) + "\n").encode())

    def models(self) -> list[Stored]:
        """Every model that is complete, by repository and type."""
        found = []
        for path in sorted(self.folder.glob(f"*/*/{_MANIFEST}")):
            repo = f"{path.parent.parent.name}/{path.parent.name}"
            if repo.startswith("."):
                continue
            manifest = self.manifest(repo)
            types = sorted({file.type for file in manifest.files.values()}) if manifest else []
            found += [stored for type_ in types if (stored := self.find(repo, type_))]
        return found

    def find(self, repo: str, type_: str) -> Stored | None:
        """Return the model if all its files are there in their right sizes, else None."""
        manifest = self.manifest(repo)
        if manifest is None:
            return None
        files = {name: file for name, file in manifest.files.items() if file.type == type_}
        place = self.place(repo)
        for name, file in files.items():
            path = place / name
            if not path.is_file() or path.stat().st_size != file.size:
                return None
        if not files:
            return None
        first = min(files)
        return Stored(
            repo, type_, place if type_ == SAFETENSORS else place / first,
            sum(file.size for file in files.values()), files[first].commit, manifest.licence,
        )  # fmt: skip

    def remove(self, repo: str, type_: str | None = None) -> int:
        """Remove a model, or all types of a repository; return the bytes set free.

        Raises:
            UsageError: there is no such model.
        """
        manifest = self.manifest(repo)
        doomed = {
            name: file
            for name, file in (manifest.files if manifest else {}).items()
            if type_ in (None, file.type)
        }
        if manifest is None or not doomed:
            what = repo if type_ is None else f"{repo}:{type_}"
            raise UsageError(f"{what} is not among the pulled models")
        freed = 0
        for name in doomed:
            path = self.place(repo) / name
            freed += path.stat().st_size if path.is_file() else 0
            path.unlink(missing_ok=True)
            del manifest.files[name]
        if type_ is None:
            freed += _size(self.partial(repo))
            shutil.rmtree(self.partial(repo), ignore_errors=True)
        if manifest.files:
            self.save(manifest)
        else:
            (self.place(repo) / _MANIFEST).unlink()
        for folder in (self.place(repo), self.place(repo).parent):
            _remove_empty(folder)
        return freed

    def disk_use(self) -> tuple[int, int]:
        """Return the bytes of complete models, and of partial downloads."""
        partial = _size(self.folder / _PARTIAL)
        return _size(self.folder) - partial, partial


def safe_name(name: str) -> str:
    """Return a file name from the hub if it stays inside its folder.

    Raises:
        ModelError: it does not, or is no plain name.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if (
        not parts
        or name.startswith(("/", "~"))
        or any(part in ("..", ".") or len(part.encode()) > 255 for part in parts)
        or not name.isprintable()
        or any(character in name for character in '\\:*?"<>|')
    ):
        raise ModelError(f"the repository has a file with the unsafe name {name!r}")
    return name


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove_empty(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_empty(path)
    if not any(folder.iterdir()):
        folder.rmdir()
