"""Download one file: resumed, bounded, verified before it counts as there.

The hub's own library is asked what there is; the bytes are fetched here, because its recent
versions throw a partial file away when the process ends.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from ..common.errors import ModelError, ResourceError, UsageError
from ..common.listen import is_loopback
from ..common.sockets import TimedSession
from ..common.text import one_line

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are here, and the bytes it has."""

CHUNK = 1 << 17  # what an interruption loses at most
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces
HEAD_SECONDS = 60.0  # until the content begins, redirects included
LEAST, WINDOW = 64 << 10, 60.0  # bytes that must come in so many seconds
TRIES = 4
MAX_REDIRECTS = 5
_AGAIN = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `digest` is the SHA-256 of its content (64 hex digits) for large
    files, or git's SHA-1 of it as a blob (40) for small ones."""

    name: str
    url: str
    size: int
    digest: str


class _Interrupted(Exception):
    """The connection broke or the server is busy: what came is kept, and trying again helps."""


def require_safe(url: str) -> None:
    """Refuse addresses that are neither https nor loopback.

    Raises:
        UsageError: such an address.
    """
    parts = urlsplit(url)
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if parts.scheme != "https" and not local:
        raise UsageError(f"{one_line(url, 200)}: models are downloaded over https only")


def fetch(
    file: RemoteFile,
    part: Path,
    headers: Mapping[str, str],
    progress: Progress | None = None,
    tries: int = TRIES,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Download `file` into `part`, going on where an earlier try ended; verify it.

    Returns the bytes that came over the network. If it fails half-way, `part` stays for the
    next try; if its content is wrong, it goes.

    Raises:
        ModelError: size or digest differ from what the hub said.
        UsageError: the file is not there, or needs a login.
        ResourceError: the network failed, or the disk is full.
    """
    hasher, came = _Hasher(file), 0
    if part.exists():
        if part.stat().st_size > file.size:
            part.unlink()
        else:
            hasher.read(part)
    report = progress or (lambda name, done, total: None)
    for number in range(tries):
        if hasher.n_bytes == file.size:
            break
        if number:
            wait(min(2.0 ** (number - 1), 8.0))
        before = hasher.n_bytes
        try:
            _receive(file, part, headers, hasher, report)
        except (_Interrupted, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if number == tries - 1:
                raise ResourceError(
                    f"{file.name}: the download broke off at {hasher.n_bytes:,} of"
                    f" {file.size:,} bytes ({one_line(str(error), 120)}); run it again to go on"
                    " from there"
                ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceError(f"{part}: the disk is full; free some and run it again") from (
                    error
                )
            raise
        finally:
            came += max(hasher.n_bytes - before, 0)
    part.touch()  # an empty file is one too
    if hasher.digest() != file.digest:
        part.unlink()
        raise ModelError(
            f"{file.name}: what came is not what the hub announced (digest"
            f" {hasher.digest()[:12]}…, expected {file.digest[:12]}…); it was thrown away,"
            " try again or another mirror"
        )
    return came


class _Hasher:
    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.reset()

    def reset(self) -> None:
        self.n_bytes = 0
        if len(self.file.digest) == 64:
            self._hash = hashlib.sha256()
        else:  # git's name of a blob; an identity, not a defence against forgery
            self._hash = hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.n_bytes += len(data)

    def read(self, path: Path) -> None:
        with path.open("rb") as stream:
            while data := stream.read(CHUNK):
                self.update(data)

    def digest(self) -> str:
        return self._hash.hexdigest()


def _receive(
    file: RemoteFile, part: Path, headers: Mapping[str, str], hasher: _Hasher, report: Progress
) -> None:
    start = hasher.n_bytes
    asked = {**headers, "Accept-Encoding": "identity"}
    if start:
        asked["Range"] = f"bytes={start}-"
    with TimedSession(HEAD_SECONDS) as session, _open(session, file, asked) as response:
        session.relax()
        if start and response.status_code != 206:
            start = 0  # the server sends it all again
            hasher.reset()
        elif start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _Interrupted("the server sent another part than asked for")
        with part.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            try:
                for data in _pieces(response):
                    if hasher.n_bytes + len(data) > file.size:
                        hasher.reset()
                        stream.truncate(0)
                        raise ModelError(
                            f"{file.name}: the server sends more than the {file.size:,} bytes"
                            " it announced; try another mirror"
                        )
                    stream.write(data)
                    hasher.update(data)
                    report(file.name, hasher.n_bytes, file.size)
            finally:
                stream.flush()
                os.fsync(stream.fileno())
    if hasher.n_bytes < file.size:
        raise _Interrupted("the connection was closed early")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """What comes, as it comes; the end if it drips."""
    came, end = 0, time.monotonic() + WINDOW
    while data := response.raw.read1(CHUNK, decode_content=False):
        yield data
        came += len(data)
        if time.monotonic() > end:
            if came < LEAST:
                raise _Interrupted(f"{came} bytes in {WINDOW:g} s are too slow")
            came, end = 0, time.monotonic() + WINDOW


def _open(session: TimedSession, file: RemoteFile, headers: dict[str, str]) -> requests.Response:
    """GET, following redirects by hand: https only, and no login to another host."""
    url = file.url
    for _ in range(MAX_REDIRECTS + 1):
        require_safe(url)
        try:
            response = session.get(
                url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False
            )
        except requests.RequestException:
            if session.expired:
                raise _Interrupted(f"the server does not answer in {HEAD_SECONDS:g} s") from None
            raise
        if session.expired:  # a head that was cut off may still read like one
            response.close()
            raise _Interrupted(f"the server does not answer in {HEAD_SECONDS:g} s")
        if response.status_code in (200, 206):
            return response
        response.close()
        if not response.is_redirect:
            _refuse(file, response.status_code)
        target = urljoin(url, response.headers["Location"])
        if urlsplit(target).netloc != urlsplit(url).netloc:
            headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
        url = target
    raise ResourceError(f"{file.name}: the hub redirects in circles; try again later")


def _refuse(file: RemoteFile, status: int) -> NoReturn:
    if status in _AGAIN:
        raise _Interrupted(f"the server answered {status}")
    if status in (401, 403):
        raise UsageError(
            f"{file.name}: the hub wants a login ({status}); accept the model's licence on its"
            " page and set HF_TOKEN"
        )
    if status == 404:
        raise UsageError(f"{file.name}: the repository has no such file")
    raise ResourceError(f"{file.name}: the hub answered {status}; try again later")
