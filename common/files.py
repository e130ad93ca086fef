"""Files that are either whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ResourceError

__all__ = [
    "atomic_output",
    "free_bytes",
    "human_bytes",
    "interruptible",
    "remove_stale",
    "require_space",
    "scratch_file",
]

MARGIN = 16 << 20
"""Bytes of the disk that are left alone."""


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written to the disk `folder` is on."""
    return shutil.disk_usage(folder).free


def human_bytes(n: float) -> str:
    """A size as people write it: 3.4 MB, 1.2 GB (powers of ten, as disks are sold)."""
    for unit in ("B", "kB", "MB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def require_space(folder: Path, need: int, free: Callable[[Path], int] = free_bytes) -> None:
    """Check before the work starts that `need` bytes fit.

    Raises:
        ResourceError: they do not; the message says how many are missing.
    """
    have = free(folder)
    if need + MARGIN > have:
        raise ResourceError(
            f"{folder}: {human_bytes(need)} are needed and {human_bytes(have)} are free;"
            f" free {human_bytes(need + MARGIN - have)} or choose another folder with --out"
        )


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, which takes its place when the block ends well.

    Whatever ends the block otherwise, an interrupt too, removes the temporary file and leaves what
    was at `path` before.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, path.name)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"{path}: the disk is full; nothing was written") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(f"{path}: cannot be written: {error.strerror}") from error
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def scratch_file(path: Path) -> Iterator[Path]:
    """A path beside `path` for a large file that is needed for a while, removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, path.name)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def remove_stale(folder: Path, start: str) -> None:
    """Remove what killed runs left of files whose names start so; one that runs keeps its own."""
    for part in folder.glob(f".{glob.escape(start)}.*.part"):
        owner = part.name.split(".")[-2]
        if owner.isdigit() and not _is_running(int(owner)):
            part.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a polite kill end the run as Ctrl-C does, so that nothing half-done stays."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
