"""A small model hub on loopback that can misbehave: it cuts, lies, refuses and redirects."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from uhlm_edge.common.errors import UhlmError
from uhlm_edge.models.hub import Pulled, pull

from ..lm.gguf.gguf_files import gguf, tensor

COMMIT = "a" * 40
MODEL = gguf(tensors=[tensor(shape=(1 << 16, 8))], data=1 << 21)
Q8 = gguf(tensors=[tensor(shape=(64, 1), kind=8)], data=96)
FREE = 1 << 40


@dataclass
class Hub:
    """What the server offers and how it behaves; `requests` is what it was asked."""

    repo: str = "maker/model"
    commit: str = COMMIT
    files: dict[str, bytes] = field(default_factory=dict)
    licence: str | None = "apache-2.0"
    status: dict[str, int] = field(default_factory=dict)  # by kind: "api" or a file's name
    error_code: str | None = None  # X-Error-Code, as the hub names its refusals
    cut: list[int] = field(default_factory=list)  # bytes after which the next replies break off
    replace: dict[str, bytes] = field(default_factory=dict)  # what is sent instead
    announced: dict[str, Any] = field(default_factory=dict)  # what the API says instead
    answer: Callable[[], Iterator[bytes]] | None = None  # what the API sends, head and all
    content: Callable[[], Iterator[bytes]] | None = None  # the same for a file
    ranges: bool = True
    redirect: str | None = None  # the address of another server, for files
    token: str | None = None
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    served: int = 0
    url: str = ""

    def asked(self, part: str) -> list[tuple[str, str | None, str | None]]:
        """The requests whose path has `part` in it: path, Range, Authorization."""
        return [request for request in self.requests if part in request[0]]


def blob_id(content: bytes) -> str:
    """Git's name for a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _describe(hub: Hub) -> bytes:
    siblings = []
    for name, content in hub.files.items():
        one: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob_id(content)}
        if name.endswith((".gguf", ".safetensors", ".bin")):
            digest = hashlib.sha256(content).hexdigest()
            one["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 135}
        siblings.append(one)
    answer: dict[str, Any] = {
        "id": hub.repo,
        "modelId": hub.repo,
        "sha": hub.commit,
        "siblings": siblings,
    }
    answer |= {"tags": [], "downloads": 0, "likes": 0, "private": False, "gated": False}
    if hub.licence:
        answer["cardData"] = {"license": hub.licence}
    return json.dumps({**answer, **hub.announced}).encode()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        login = self.headers.get("Authorization")
        hub.requests.append((path, self.headers.get("Range"), login))
        if hub.token and login != f"Bearer {hub.token}":
            return self._answer(401, b"{}", {"X-Error-Code": hub.error_code or "RepoNotFound"})
        if path.startswith("/api/models/"):
            return self._api(path.removeprefix("/api/models/"))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match is None or match[1] != hub.repo or match[2] != hub.commit:
            return self._answer(404, b"")
        return self._file(match[3])

    def _api(self, rest: str) -> None:
        hub = self.hub
        repo, _, revision = rest.partition("/revision/")
        if "api" in hub.status:
            code = hub.error_code
            return self._answer(hub.status["api"], b"{}", {"X-Error-Code": code} if code else {})
        if hub.answer is not None:
            return self._write(hub.answer())
        if repo != hub.repo:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("", "main", hub.commit):
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return self._answer(200, _describe(hub), {"Content-Type": "application/json"})

    def _write(self, parts: Iterator[bytes]) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            for part in parts:
                self.wfile.write(part)
                self.hub.served += len(part)

    def _file(self, name: str) -> None:
        hub = self.hub
        if hub.content is not None:
            return self._write(hub.content())
        if name in hub.status:
            return self._answer(hub.status[name], b"")
        if hub.redirect:
            return self._answer(302, b"", {"Location": hub.redirect + self.path})
        if name not in hub.files:
            return self._answer(404, b"")
        content, status, headers = hub.replace.get(name, hub.files[name]), 200, {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and hub.ranges:
            start, total = int(wanted[1]), len(content)
            content, status = content[start:], 206
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        return self._answer(status, content, headers, hub.cut.pop(0) if hub.cut else None)

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        if "/resolve/" in self.path:
            self.hub.served += len(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests read `hub.requests`."""


class HubServer:
    """Serve a `Hub` on a free port of 127.0.0.1 for the length of a `with` block."""

    def __init__(self, hub: Hub) -> None:
        handler = type("Handler", (_Handler,), {"hub": hub})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.hub = hub
        hub.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        self.thread.start()
        return self.hub

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def get(hub: Hub, folder: Path, name: str = "maker/model", **options: Any) -> Pulled:
    """Pull from `hub` into `folder`."""
    waits: list[float] = []
    defaults = {"token": False, "free": lambda folder: FREE, "wait": waits.append}
    return pull(name, folder=folder, endpoint=hub.url, **{**defaults, **options})


def final_files(folder: Path) -> list[str]:
    """What lies outside the folder of partial downloads."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.parts[0] != ".partial")


def refused(hub: Hub, folder: Path, kind: type[UhlmError], **options: Any) -> str:
    """Pull, expect a refusal in one line and nothing in the final place; return the line."""
    with pytest.raises(kind) as caught:
        get(hub, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert final_files(folder) == []
    return message
