"""Files that are either whole or not there: written beside their place, synced, then renamed.

And files of people, which are read up to a size and no further, whatever they are.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import DataError, ResourceError
from .text import human_bytes

MARGIN = 16 << 20
"""Bytes of the disk that are left alone."""

_REASONS = {
    errno.ENOSPC: "the disk is full; nothing was written",
    errno.EDQUOT: "the disk quota is used up; nothing was written",
    errno.EFBIG: "a file may not become so large (see `ulimit -f`); nothing was written",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
    ),
}


_CHUNK = 1 << 20


def read_bounded(path: Path, most: int) -> bytes:
    """A file, a pipe or a device, whole.

    Raises:
        DataError: it has more than `most` bytes; no more of them were read.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size > most:
            raise _too_large(str(path), most)
        return read_stream(stream, most, str(path))


def read_stream(stream: IO[bytes], most: int, name: str) -> bytes:
    """All that is left of a stream; `name` is what messages call it.

    Raises:
        DataError: that is more than `most` bytes; no more of them were read.
        OSError: it cannot be read.
    """
    parts: list[bytes] = []
    left = most + 1
    while left and (part := stream.read(min(left, _CHUNK))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise _too_large(name, most)
    return b"".join(parts)


def _too_large(name: str, most: int) -> DataError:
    return DataError(f"{name}: larger than {human_bytes(most)}; give a part of it")


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written to the disk `folder` is on."""
    return shutil.disk_usage(folder).free


def require_space(
    folder: Path,
    need: int,
    free: Callable[[Path], int] = free_bytes,
    else_: str = "choose another folder with --out",
) -> None:
    """Check before the work starts that `need` bytes fit; `else_` is what helps but to free some.

    Raises:
        ResourceError: they do not; the message says how many are missing.
    """
    have = free(folder)
    if need + MARGIN > have:
        raise ResourceError(
            f"{folder}: {human_bytes(need)} are needed and {human_bytes(have)} are free;"
            f" free {human_bytes(need + MARGIN - have)} or {else_}"
        )


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, which takes its place when the block ends well.

    Whatever ends the block otherwise, an interrupt too, removes the temporary file and leaves what
    was at `path` before. Two writers at once leave the content of one of them.

    Raises:
        ResourceError: the disk is full, a file may not become so large, or the folder cannot be
            written to.
    """
    with scratch_file(path) as part, explained(path):
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
        _sync_folder(path.parent)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in one line what keeps the block from writing `path`.

    Raises:
        ResourceError: the disk is full, a file may not become so large, or the folder cannot be
            written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        why = _REASONS[error.errno] or f"cannot be written: {error.strerror}"
        raise ResourceError(f"{path}: {why}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all; what it raises is `atomic_output`'s."""
    with atomic_output(path) as part:
        part.write_bytes(content)


@contextmanager
def scratch_file(path: Path) -> Iterator[Path]:
    """A path beside `path` for a file that is needed for a while, removed at the end.

    Its name has the process, so that what a killed one left can be told from what is in use, and
    a random part, so that two writers of one process do not meet.

    Raises:
        ResourceError: the folder cannot be made.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, path.name)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def remove_stale(folder: Path, start: str) -> None:
    """Remove what killed runs left of files whose names start so; one that runs keeps its own."""
    for part in folder.glob(f".{glob.escape(start)}.*.part"):
        owner = part.name.split(".")[-2].partition("-")[0]
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
