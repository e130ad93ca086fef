"""JSON to and from an engine, bounded in time and bytes. What it does wrong is an EngineError."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import urllib3

from ...common.errors import ConfigError, EngineError, cause_of
from ...common.text import one_line

_MOST_BYTES = 64 << 20  # a few thousand positions with some dozen ids each


class JsonClient:
    """Connections to one engine, shared by threads.

    Args:
        url: scheme, host, port and perhaps a path that its routes are below.
        key: sent as a bearer token.
        timeout: seconds for one question.
        connections: kept open.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(
        self, url: str, key: str | None = None, timeout: float = 30.0, connections: int = 32
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{url!r} is no URL of an engine; it looks like http://127.0.0.1:8000"
            )
        self.url = url.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._pool = urllib3.PoolManager(
            maxsize=connections,
            # A question changes nothing, so one more try is safe when a kept connection had gone.
            retries=urllib3.Retry(total=1, redirect=0, status=0, allowed_methods=None),
            timeout=urllib3.Timeout(connect=min(5.0, timeout), read=timeout),
        )

    def get(self, path: str) -> Any:
        """Ask; raises EngineError."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send and ask; raises EngineError."""
        return self._ask("POST", path, json.dumps(body, separators=(",", ":")).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        try:
            answer = self._pool.request(
                method, self.url + path, body=body, headers=self._headers, preload_content=False
            )
            try:
                content = answer.read(_MOST_BYTES + 1, decode_content=True)
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise EngineError(
                f"the engine at {self.url} does not answer ({cause_of(error)})"
            ) from None
        if len(content) > _MOST_BYTES:
            raise EngineError(f"the engine at {self.url} sends more than an answer can be")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if answer.status != 200:
            raise EngineError(
                f"the engine at {self.url} refuses (HTTP {answer.status}: {_reason(value)})"
            )
        if not isinstance(value, dict):
            raise EngineError(f"the engine at {self.url} answers no JSON object")
        return value

    def close(self) -> None:
        """Drop the connections."""
        self._pool.clear()


def _reason(value: Any) -> str:
    """What an error body says: vLLM and SGLang put it in one of these places."""
    if isinstance(value, dict):
        error = value.get("error")
        places = [error.get("message") if isinstance(error, dict) else error]
        places += [value.get("message"), value.get("detail")]
        for text in places:
            if isinstance(text, str) and text:
                return one_line(text, 200)
    return "no reason given"
