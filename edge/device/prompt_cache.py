"""What the device's model has read, kept on disk, so that a restart does not read it again.

A file holds the ids of one conversation and the model's keys and values for them. It is as private
as the conversation: only its owner can read it, and it is written only if a size is configured.
llama.cpp takes damaged keys and values without a word, so nothing is given to it whose checksum,
owner or model differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ...common.errors import ContextFull, ResourceError
from ...common.files import write_whole
from ...lm.engines.protocol import Engine, Logits, WrappedEngine
from ...lm.ids import common_length

_log = logging.getLogger("uhlm_edge.prompt_cache")
_log.addHandler(logging.NullHandler())

_MAGIC = b"UHLM-PROMPT-1\n"
_HEAD = struct.Struct("<32s32sI")  # SHA-256 of all that follows, key, number of ids
_LEAST = 64  # ids: fewer are read again in less time than a file takes
_SUFFIX = ".prompt"


class SavingEngine(Engine, Protocol):
    """An engine whose keys and values can be taken out and put back."""

    def save(self) -> bytes:
        """Keys and values of all ids that it holds."""
        ...

    def load(self, state: bytes, n: int) -> None:
        """Put back what `save` returned, of `n` ids, into an empty engine. Raises ContextFull."""
        ...


def prompt_folder(cache_home: str | None) -> Path:
    """Where the files lie: below XDG_CACHE_HOME, else ~/.cache."""
    return Path(cache_home or "~/.cache").expanduser() / "uhlm-edge" / "prompts"


class PromptCache(WrappedEngine):
    """An engine that finds on disk what it read before it was restarted.

    Looked for when many ids are to be read at once; written when a conversation is left and at the
    end. A disk that fails costs time, never the reply.

    Args:
        engine: what runs the model; it is closed with this.
        folder: made with mode 0700.
        limit: bytes of all files; the oldest go first.
        key: of the model, its file and the engine's build: whatever makes keys and values differ.
    """

    def __init__(self, engine: SavingEngine, folder: Path, limit: int, key: str) -> None:
        super().__init__(engine)
        self._engine = engine  # the same, known to be one that saves
        self._folder = folder
        self._limit = limit
        self._key = hashlib.sha256(key.encode()).digest()
        self._ids: list[int] = []
        self._kept = 0  # ids of the present conversation that are on disk
        self.restored = 0
        """Ids that were found instead of read, since the start."""

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        if len(tokens) >= _LEAST:
            tokens = self._restore(list(tokens), rows)
        logits = self._engine.eval(tokens, rows)
        self._ids += tokens
        return logits

    def truncate(self, n: int) -> None:
        if len(self._ids) - n >= max(_LEAST, n):  # most of it is left behind
            self._keep()
            self._kept = 0
        del self._ids[n:]
        self._engine.truncate(n)

    def cut(self, at: int, n: int) -> bool:
        done = self._engine.cut(at, n)
        if done:
            del self._ids[at : at + n]
            self._kept = 0
        return done

    def close(self) -> None:
        """Keep the conversation and free the model. Twice is fine."""
        self._keep()
        self._ids = []
        self._engine.close()

    def _restore(self, tokens: list[int], rows: int) -> list[int]:
        """Put back the longest beginning that is on disk; return what is left to read."""
        wanted = self._ids + tokens
        found = []
        for path, ids in self._files():
            common = min(common_length(ids, wanted), len(wanted) - rows)
            if common >= len(self._ids) + _LEAST:
                found.append((common, len(ids), path))
        for common, n, path in sorted(found, reverse=True):
            state = self._state(path)
            if state is None:
                continue
            self._engine.truncate(0)
            try:
                self._engine.load(state, n)
                self._engine.truncate(common)
            except ContextFull:
                self._ids = []
                return wanted
            self._ids, self._kept = wanted[:common], n
            self.restored += common
            with contextlib.suppress(OSError):
                os.utime(path)
            return wanted[common:]
        return tokens

    def _keep(self) -> None:
        """Write the conversation, unless it is short or on disk already; then tidy up."""
        if len(self._ids) - self._kept < _LEAST:
            return
        ids = struct.pack(f"<{len(self._ids)}I", *self._ids)
        body = _HEAD.pack(bytes(32), self._key, len(self._ids))[32:] + ids + self._engine.save()
        if len(body) > self._limit:
            return
        name = hashlib.sha256(self._key + ids[: 4 * _LEAST]).hexdigest()[:32]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)  # before anything private lies in it
            path = self._folder / f"{name}{_SUFFIX}"
            write_whole(path, _MAGIC + hashlib.sha256(body).digest() + body)
            path.chmod(0o600)
            self._kept = len(self._ids)
            self._tidy()
        except (OSError, ResourceError) as error:
            _log.warning("not kept: %s", error)

    def _tidy(self) -> None:
        """Remove the oldest files until the limit holds."""
        files = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda f: f.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self._limit:
                return
            total -= file.stat().st_size
            file.unlink()

    def _files(self) -> Iterator[tuple[Path, list[int]]]:
        """Every file of this model that only we can have written, and the ids it is of."""
        start = len(_MAGIC) + _HEAD.size
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                if not _is_ours(path.stat()):
                    continue
                with path.open("rb") as file:
                    head = file.read(start)
                    if len(head) < start or not head.startswith(_MAGIC):
                        continue
                    _, key, n = _HEAD.unpack_from(head, len(_MAGIC))
                    if key != self._key or n > self.n_ctx:
                        continue  # another model's, or of a larger context
                    ids = file.read(4 * n)
            except OSError as error:
                _log.warning("passed over: %s", error)
                continue
            if len(ids) == 4 * n:
                yield path, list(struct.unpack(f"<{n}I", ids))

    def _state(self, path: Path) -> bytes | None:
        """Keys and values of a file whose checksum holds; one that is damaged is removed."""
        try:
            content = path.read_bytes()
            checksum, _, n = _HEAD.unpack_from(content, len(_MAGIC))
            if hashlib.sha256(content[len(_MAGIC) + 32 :]).digest() != checksum:
                _log.warning("damaged, removed: %s", path.name)
                path.unlink()
                return None
        except OSError as error:
            _log.warning("passed over: %s", error)
            return None
        return content[len(_MAGIC) + _HEAD.size + 4 * n :]


def _is_ours(status: os.stat_result) -> bool:
    """Only this user can have written it."""
    return not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & 0o022
    )
