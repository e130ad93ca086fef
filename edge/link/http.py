"""The verifier over HTTP: one call out, one answer back, or a CloudError."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeout
from urllib3.util import SKIP_HEADER

from ...common.errors import (
    CloudError,
    ConfigError,
    Overloaded,
    ProtocolError,
    Refused,
    Rejected,
    Unreachable,
    cause_of,
)
from ...common.listen import is_loopback
from ...common.sockets import ClosableAdapter
from ...wire.codec import require
from ...wire.messages import MEDIA_TYPE, Conflict, Info, Malformed, Reply, Request
from ..stats import Traffic
from .protocol import Deadline

_RETRIED = {408, 429, 502, 503, 504}
_MORE_TRIES = 2
_BACKOFF = 0.05  # seconds, doubled each time, with jitter
_MAX_REPLY = 4 << 20
_UNSAID = {"User-Agent": SKIP_HEADER, "Accept-Encoding": SKIP_HEADER}
"""Defaults that say nothing to a verifier: each would cost its bytes at every call."""


class HttpLink:
    """Calls over HTTP with keep-alive, as few header bytes as possible, and bounded in time.

    Args:
        url: of the verifier ("http://127.0.0.1:8787"); a path is a proxy's prefix.
        key: sent as a bearer token; only over https, or to loopback.
        connect_timeout: seconds for a connection.
        ca_file: certificates to trust instead of the system's.
        sleep: between tries.

    Raises:
        ConfigError: the URL is none, or a key would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        connect_timeout: float = 2.0,
        ca_file: str | Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = _checked_url(url, key)
        self.traffic = Traffic()
        self._key = key
        self._connect_timeout = connect_timeout
        self._ca_file = str(ca_file) if ca_file else True
        self._sleep = sleep
        self._adapter = ClosableAdapter()
        self._made: tuple[ClosableAdapter, Any, str] | None = None

    def __repr__(self) -> str:
        return f"HttpLink({self.url!r})"

    def reset(self) -> None:
        self._adapter.close_sockets()
        self._adapter = ClosableAdapter()

    def _opened(self) -> tuple[Any, str]:
        """Connections to the verifier by the environment's proxies and certificates, and the path.

        They are looked up once, and asked by urllib3: requests would take half as long again for a
        call, with cookies, history and redirects that nobody follows.
        """
        made, adapter = self._made, self._adapter
        if made is not None and made[0] is adapter:
            return made[1:]
        with requests.Session() as session:
            found: Any = session.merge_environment_settings(self.url, {}, True, self._ca_file, None)
        if is_loopback(urlsplit(self.url).hostname or ""):
            found["proxies"] = {}  # whatever http_proxy says: the key stays here
        root = requests.Request("GET", self.url + "/").prepare()
        verify, cert, proxies = found["verify"], found["cert"], found["proxies"]
        pool = adapter.get_connection_with_tls_context(root, verify, proxies, cert)
        adapter.cert_verify(pool, self.url, verify, cert)  # type: ignore[no-untyped-call]
        path = adapter.request_url(root, proxies).rstrip("/")
        self._made = adapter, pool, path
        return pool, path

    def _request(
        self, method: str, path: str, more: Mapping[str, str], body: bytes = b""
    ) -> _Request:
        headers = dict(more)
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return _Request(method, path, headers, body)

    def info(self, deadline: Deadline) -> Info:
        status, body, _ = self._with_tries(lambda: self._request("GET", "/v1/info", {}), deadline)
        if status != 200:
            raise _failure(status, body, self.url)
        try:
            return Info.parse(body)
        except Malformed as error:
            raise ProtocolError(f"{self.url} answers, but {error}") from None

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        body = request.pack()

        def request_now() -> _Request:
            headers = {
                "Content-Type": MEDIA_TYPE,
                "X-Session-Id": session_id,
                "X-Deadline-Ms": str(int(1e3 * deadline.left)),
            }
            return self._request("POST", "/v1/verify", headers, body)

        status, answer, content_type = self._with_tries(request_now, deadline)
        try:
            if status == 200:
                require(content_type.startswith(MEDIA_TYPE), Malformed, "not a verifier's reply")
                return Reply.unpack(answer, request, n_vocab, session_id)
            if status == 409:
                return Conflict.from_json(_json(answer))
        except Malformed as error:
            raise ProtocolError(f"{self.url} answered nonsense: {error}") from None
        raise _failure(status, answer, self.url)

    def forget(self, session_id: str, deadline: Deadline) -> None:
        headers = {"X-Session-Id": session_id}  # routers go by it
        self._send(self._request("DELETE", f"/v1/sessions/{session_id}", headers), deadline)

    def _with_tries(
        self, request_now: Callable[[], _Request], deadline: Deadline
    ) -> tuple[int, bytes, str]:
        """Send, and again what is safe to repeat, all within the deadline."""
        for more in reversed(range(_MORE_TRIES + 1)):
            deadline.check()
            left = deadline.left
            pause = _BACKOFF * 2 ** (_MORE_TRIES - more) * (0.5 + random.random())  # noqa: S311
            try:
                status, body, headers = self._send(request_now(), deadline)
                # A 500 of a proxy, such as Ray's where a replica died, is no verifier's word.
                if status not in _RETRIED and not (status == 500 and _told(body) is None):
                    return status, body, headers.get("content-type", "")
                retry_after = _retry_after(headers.get("retry-after"))
                failure: CloudError = Overloaded(
                    f"the verifier at {self.url} is busy (HTTP {status})", retry_after
                )
                pause = pause if retry_after is None else retry_after
            except Unreachable as error:
                failure = error
            failure.cost = left - deadline.left
            if more == 0 or pause >= deadline.left:
                raise failure
            self._sleep(pause)
        raise AssertionError("unreachable")

    def _send(self, request: _Request, deadline: Deadline) -> tuple[int, bytes, Mapping[str, str]]:
        if (left := deadline.left) <= 0.0:  # looked at once: no timeout may be zero
            raise deadline.exceeded
        body = bytearray()
        timeout = Timeout(connect=min(self._connect_timeout, left), read=deadline.seconds)
        self.traffic.calls += 1
        self.traffic.payload_up += len(request.body)
        self.traffic.wire_up += request.wire_size(self.url)
        try:
            pool, path = self._opened()
            response = pool.urlopen(
                request.method, path + request.path, request.body or None,
                {**request.headers, **_UNSAID}, retries=False, redirect=False,
                assert_same_host=False, preload_content=False, decode_content=False,
                timeout=timeout,
            )  # fmt: skip
            with contextlib.closing(response):
                while chunk := response.read1(1 << 16):
                    body += chunk
                    if len(body) > _MAX_REPLY:
                        raise ProtocolError(f"{self.url} sends more than a reply can be")
            self.traffic.payload_down += len(body)
            self.traffic.wire_down += len(body) + _head_size(response)
            return response.status, bytes(body), response.headers
        except (SSLError, requests.exceptions.SSLError) as error:
            raise Unreachable(_tls_failure(self.url, cause_of(error))) from None
        except (requests.exceptions.RequestException, HTTPError, OSError) as error:
            deadline.check()
            if isinstance(error, HTTPTimeout) and not isinstance(error, NewConnectionError):
                raise Unreachable(f"no connection to {self.url} in time") from None
            raise Unreachable(
                f"cannot reach the verifier at {self.url} ({cause_of(error)})"
            ) from None


class _Request(NamedTuple):
    """What is asked; the host and lengths are added on the way."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def wire_size(self, url: str) -> int:
        """Bytes of it as HTTP/1.1 puts it: request line, headers, body."""
        parts = urlsplit(url)
        line = f"{self.method} {parts.path}{self.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
        length = len(f"Content-Length: {len(self.body)}\r\n") if self.body else 0
        named = sum(len(name) + len(value) + 4 for name, value in self.headers.items())
        return len(line) + named + length + len(self.body)


def _checked_url(url: str, key: str | None) -> str:
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_fine = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ConfigError(f"{url!r} is no URL of a verifier; it looks like http://192.0.2.1:8787")
    if parts.query or parts.fragment or parts.username:
        raise ConfigError(f"{parts.hostname}: give the verifier's URL without query and user")
    if key and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(
            f"a key is never sent over plain http, except to this machine: use "
            f"https://{parts.netloc}"
        )
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        raise ConfigError("the key has characters that no HTTP header can carry; is it complete?")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _failure(status: int, body: bytes, url: str) -> CloudError:
    """The error for a status that is no answer."""
    if status in (401, 403):
        return Refused(f"the verifier at {url} refuses the key; set UHLM_API_KEY to a valid one")
    if 300 <= status < 400:
        # Not for good: a network that wants a login first answers like this, for a while.
        return Unreachable(f"{url} redirects elsewhere, which is not followed; use the final URL")
    detail = _told(body) or "is this a verifier?"
    if status >= 500:
        return Unreachable(f"the verifier at {url} failed (HTTP {status}: {detail})")
    return Rejected(f"the verifier at {url} takes no such call (HTTP {status}: {detail})")


def _tls_failure(url: str, reason: str) -> str:
    """One line for a handshake that failed, by its cause."""
    if "WRONG_VERSION_NUMBER" in reason or "record layer failure" in reason:
        return f"{url} does not speak TLS; is it an http:// address?"
    if "certificate verify failed" in reason or "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            f"{url}: the certificate is not trusted ({reason}); "
            "set ca_file in the [cloud] section if it is your own"
        )
    return f"{url}: no secure connection ({reason})"


def _told(body: bytes) -> str | None:
    """What a verifier says about a failure; None if it is not one that speaks."""
    try:
        return str(_json(body)["error"]["message"])[:200]
    except (Malformed, KeyError, TypeError):
        return None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if not value:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:  # "-0000": a time in UTC that says nothing about its place
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _head_size(response: BaseHTTPResponse) -> int:
    line = len(f"HTTP/1.1 {response.status} {response.reason}\r\n\r\n")
    return line + sum(len(k) + len(v) + 4 for k, v in response.headers.items())
