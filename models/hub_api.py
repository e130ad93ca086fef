"""Ask the Hugging Face hub what a repository holds; its answer is bounded and checked.

The hub's own library knows HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. The request is made here: the
library reads answers of any size, unpacks them, and follows redirects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote

import urllib3

from ..common.errors import ModelError, ResourceError, UsageError
from ..common.sockets import TimedSession
from ..common.text import one_line
from .download import TIMEOUT, RemoteFile, require_safe
from .store import safe_name

MAX_ANSWER = 16 << 20  # bytes: about 50,000 files
MAX_SECONDS = 60.0  # for the whole answer, its head too
MAX_FILE = 1 << 50
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Repository:
    """What the hub says of a repository at one commit. Sizes and digests are those announced."""

    commit: str
    licence: str | None
    files: Mapping[str, RemoteFile]


def ask_hub(
    repo: str,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
) -> Repository:
    """What the hub holds under a name.

    Args:
        repo: OWNER/REPO.
        revision: a commit, tag or branch; the newest without one.
        endpoint: the hub's address; by default HF_ENDPOINT or the public hub.
        token: a login; by default HF_TOKEN or the one saved by the hub's own tools.

    Raises:
        UsageError: no such repository or revision; a login is needed; offline mode.
        ModelError: a name or a number in the answer is not what it may be.
        ResourceError: no answer, or none that describes a model.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            f"{repo} is not among the pulled models, and HF_HUB_OFFLINE is set; unset it to pull"
        )
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    require_safe(endpoint)
    url = f"{endpoint}/api/models/{repo}"
    if revision is not None:
        url += f"/revision/{quote(revision, safe='')}"
    status, code, body = _get(url, repo, endpoint, login_headers(token))
    if status != 200:
        _refuse(repo, revision, status, code)
    try:
        return _read(repo, endpoint, json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResourceError(
            f"{repo}: what {endpoint} answers is no description of a model; check HF_ENDPOINT"
        ) from error


def login_headers(token: str | bool | None) -> dict[str, str]:
    """Who asks; `token` as in `ask_hub`, False for none."""
    from huggingface_hub import get_token

    value = token if isinstance(token, str) else None if token is False else get_token()
    login = {"authorization": f"Bearer {value}"} if value else {}
    return {"user-agent": "uhlm-edge", **login}


def _get(
    url: str, repo: str, endpoint: str, headers: Mapping[str, str]
) -> tuple[int, str | None, bytes]:
    """Status, the hub's own code of a refusal, and the body."""
    try:
        with (
            TimedSession(MAX_SECONDS) as session,
            session.get(
                url,
                params={"blobs": "true"},
                headers={**headers, "accept-encoding": "identity"},
                stream=True,
                timeout=TIMEOUT,
                allow_redirects=False,
            ) as response,
        ):
            body = bytearray()
            # As much as came, still packed if it comes packed: then it is no JSON.
            while part := response.raw.read1(1 << 16, decode_content=False):
                body += part
                if len(body) > MAX_ANSWER:
                    raise ResourceError(f"{repo}: {endpoint} answers with more than 16 MiB")
            if not session.expired:  # or it ended because it was closed here
                return response.status_code, response.headers.get("X-Error-Code"), bytes(body)
    except (OSError, urllib3.exceptions.HTTPError) as error:
        if not session.expired:
            reason = one_line(f"{type(error).__name__}: {error}", 160)
            raise ResourceError(
                f"{repo}: no answer from {endpoint} ({reason}); check the network or HF_ENDPOINT"
            ) from error
    raise ResourceError(f"{repo}: {endpoint} answers too slowly; try again later")


def _refuse(repo: str, revision: str | None, status: int, code: str | None) -> NoReturn:
    if code == "RevisionNotFound":
        raise UsageError(f"{repo} has no revision {revision}; choose another")
    if code == "RepoNotFound" or (code is None and status == 404):
        raise UsageError(
            f"{repo}: there is no such model, or it is private; check the name, and set HF_TOKEN"
            " if it is yours"
        )
    if status in (401, 403):
        raise UsageError(
            f"{repo} is behind a login: accept its licence on its page at the hub, make a token"
            " there and set HF_TOKEN"
        )
    raise ResourceError(f"{repo}: the hub answered {status}; try again later")


def _read(repo: str, endpoint: str, answer: Mapping[str, Any]) -> Repository:
    commit = answer["sha"]
    if not isinstance(commit, str) or not re.fullmatch("[0-9A-Za-z]{1,64}", commit):
        raise ModelError(f"{repo}: the hub does not say which commit it serves")
    files = {}
    for item in answer["siblings"] or []:
        name = safe_name(item["rfilename"])
        large = item.get("lfs") or {}
        size = large.get("size", item.get("size"))
        if not isinstance(size, int) or not 0 <= size < MAX_FILE:
            raise ModelError(f"{repo}: the hub gives no size for {one_line(name)}; use another hub")
        digest = str(large["sha256"] if large else item.get("blobId") or "").lower()
        path = "/".join(quote(part, safe="") for part in name.split("/"))
        url = f"{endpoint}/{repo}/resolve/{commit}/{path}"
        files[name] = RemoteFile(name, url, size, digest)
    licence = (answer.get("cardData") or {}).get("license")
    return Repository(commit, licence if isinstance(licence, str) else None, files)


def require_digest(repo: str, file: RemoteFile) -> None:
    """Refuse a file whose content could not be checked; SHA-256 for weights.

    Raises:
        ModelError: the hub gives no such digest.
    """
    weights = file.name.endswith((".gguf", ".safetensors"))
    if len(file.digest) not in ((64,) if weights else (40, 64)) or set(file.digest) - _HEX:
        kind = "SHA-256" if weights and file.digest else "digest"
        raise ModelError(f"{repo}: the hub gives no {kind} for {file.name}; use another hub")
