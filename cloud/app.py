"""The verifier over HTTP: routes, limits, error bodies. Plain ASGI: each layer costs every call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ..common.errors import ContextFull, DeadlineExceeded, EngineError
from ..common.worker import Closed, Full
from ..wire.codec import Malformed, OutOfRange
from ..wire.messages import MEDIA_TYPE, Conflict, Reply, Request
from .call import Call, Outcome
from .guard import Refusal
from .metrics import exposition
from .service import Service

_log = logging.getLogger("uhlm_edge.cloud")
_calls = logging.getLogger("uhlm_edge.cloud.calls")
_SESSION_ID = re.compile(r"[0-9a-f]{32}")
_LOOK_AFTER = 0.05  # seconds; a call that takes longer is watched for its device hanging up
_JSON = "application/json"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Response = tuple[int, bytes, str]
"""Status, body, content type."""


class App:
    """The ASGI app. Every route but `/health` asks for a key.

    Args:
        service: what answers.
        clock: of its scheduler.
    """

    def __init__(self, service: Service, clock: Callable[[], float] = time.perf_counter) -> None:
        self._service = service
        self._scheduler = service.verifier.scheduler
        self._clock = clock
        self.routes: dict[str, tuple[str, Callable[..., Awaitable[Response]]]] = {
            "/health": ("GET", self._health),
            "/v1/info": ("GET", self._info),
            "/metrics": ("GET", self._metrics),
            "/v1/verify": ("POST", self._verify),
            "/v1/sessions/": ("DELETE", self._forget),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"no {scope['type']} here")
        more: list[tuple[bytes, bytes]] = []
        try:
            status, body, kind = await self._answer(scope, receive)
        except Exception as error:  # every failure has its status
            refusal = _refusal(error)
            status, kind = refusal.status, _JSON
            told = {"error": {"code": status, "message": refusal.message}, **refusal.more}
            body = json.dumps(told).encode()
            if refusal.retry_after is not None:
                seconds = max(1, math.ceil(refusal.retry_after))
                more.append((b"retry-after", str(seconds).encode()))
            if status == 401:
                more.append((b"www-authenticate", b"Bearer"))
            if status in (400, 401, 403, 413):  # whoever sends such things waits outside
                more.append((b"connection", b"close"))
        headers = [
            (b"content-length", str(len(body)).encode()), (b"content-type", kind.encode()), *more
        ]  # fmt: skip
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path: str = scope["path"]
        if path == "/health":
            return await self._health()
        owner = self._service.guard.owner(scope["headers"])
        head, slash, tail = path.rpartition("/")
        name = path if path in self.routes else head + slash
        if name not in self.routes or (name == path and path.endswith("/")):
            raise Refusal(404, "no such route")
        method, handler = self.routes[name]
        if scope["method"] != method:
            raise Refusal(405, f"only {method}")
        return await handler(owner, scope, receive, tail)

    async def _health(self, *_: object) -> Response:
        ready = self._service.ready
        return 200 if ready else 503, json.dumps({"ready": ready}).encode(), _JSON

    async def _info(self, *_: object) -> Response:
        return 200, self._service.info().model_dump_json().encode(), _JSON

    async def _metrics(self, *_: object) -> Response:
        numbers = exposition(
            self._scheduler.observed, self._scheduler.counters, self._service.gauges
        )
        return 200, numbers, "text/plain; version=0.0.4; charset=utf-8"

    async def _forget(self, owner: str, scope: Scope, receive: Receive, tail: str) -> Response:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        key = (owner, _session_id(tail))
        self._scheduler.forget(key, lambda: _tell(loop, done.set))
        await done.wait()
        return 204, b"", _JSON

    async def _verify(self, owner: str, scope: Scope, receive: Receive, tail: str) -> Response:
        arrived = self._clock()
        service = self._service
        headers: dict[bytes, bytes] = dict(scope["headers"])
        session = _session_id(headers.get(b"x-session-id", b"").decode("latin-1"))
        patience = min(_patience(headers.get(b"x-deadline-ms")), service.call_seconds)
        if not service.ready:
            raise Closed
        service.guard.admit(owner)
        limit = service.limits.body_bytes
        body = await _in_time(_body(headers, receive, limit), patience)
        is_json = headers.get(b"content-type", b"").startswith(b"application/json")
        n_vocab = len(service.vocab)
        if is_json:
            request = Request.from_json(_json(body), service.limits, n_vocab)
        else:
            request = Request.unpack(body, service.limits, n_vocab)
        outcome = await self._submit((owner, session), request, arrived + patience, receive)
        _log_call(owner, session, request, outcome, self._clock() - arrived)
        if isinstance(outcome, Conflict):
            raise Refusal(409, "send from `held` on, with settings", more=outcome.to_json())
        if is_json:
            return 200, json.dumps(outcome.to_json()).encode(), _JSON
        return 200, outcome.pack(), MEDIA_TYPE

    async def _submit(
        self, key: tuple[str, str], request: Request, deadline: float, receive: Receive
    ) -> Reply | Conflict:
        loop, home = asyncio.get_running_loop(), threading.get_ident()
        answer: asyncio.Future[Outcome] = loop.create_future()

        def deliver(outcome: Outcome) -> None:
            if threading.get_ident() == home:
                _settle(answer, outcome)
            else:
                _tell(loop, _settle, answer, outcome)

        try:
            call = self._scheduler.submit(key, request, deliver, deadline)
        except Full:
            wait = self._scheduler.retry_after
            raise Refusal(429, "too many calls wait", wait) from None
        watch = loop.call_later(_LOOK_AFTER, _watch, loop, receive, call, answer)
        try:
            outcome = await answer
        finally:
            watch.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: Any) -> None:
    """Call back from the model's thread; a loop that is closed has nobody who waits."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what, *arguments)


def _settle(answer: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not answer.done():
        answer.set_result(outcome)


def _watch(
    loop: asyncio.AbstractEventLoop, receive: Receive, call: Call, answer: asyncio.Future[Outcome]
) -> None:
    """A device that hangs up wants no answer: what its call has not cost yet is saved."""

    async def look() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call.gone = True

    task = loop.create_task(look())
    answer.add_done_callback(lambda _: task.cancel())


async def _in_time(reading: Coroutine[Any, Any, bytes], seconds: float) -> bytes:
    """What `asyncio.wait_for` does, without a task of its own for each call."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    late = False

    def stop() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(min(seconds, 86_400.0), stop)
    try:
        return await reading
    except asyncio.CancelledError:
        if late:
            raise DeadlineExceeded("the request came too slowly") from None
        raise
    finally:
        timer.cancel()


async def _body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The body, refused before it is read if it is too large."""
    declared = headers.get(b"content-length", b"0")
    if not re.fullmatch(b"[0-9]{1,12}", declared) or int(declared) > limit:
        raise Refusal(413, f"a body may have {limit} bytes")
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the device hung up")
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise Refusal(413, f"a body may have {limit} bytes")
        if not message.get("more_body", False):
            return bytes(parts)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None


def _patience(header: bytes | None) -> float:
    """Seconds that the device still waits, by its own word."""
    if header is None:
        return math.inf
    if not re.fullmatch(b"[0-9]{1,8}", header):
        raise Malformed("x-deadline-ms must be milliseconds")
    return int(header) / 1e3


def _session_id(text: str) -> str:
    if not _SESSION_ID.fullmatch(text):
        raise Malformed("x-session-id must be 32 hex digits")
    return text


def _refusal(error: Exception) -> Refusal:
    """What is told about a failure: nothing of our own making."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Malformed):
        return Refusal(400, str(error))
    if isinstance(error, OutOfRange):
        return Refusal(422, str(error))
    if isinstance(error, Closed):
        return Refusal(503, "the verifier is stopping", 1.0)
    if isinstance(error, DeadlineExceeded):
        return Refusal(504, str(error))
    if isinstance(error, ContextFull):
        return Refusal(503, str(error), 1.0)
    if isinstance(error, EngineError):
        _log.warning("%s: %s", type(error).__name__, error)
        return Refusal(500, str(error))
    _log.error("the verifier failed", exc_info=error)
    return Refusal(500, "the verifier failed")


def _log_call(
    owner: str, session: str, request: Request, outcome: Reply | Conflict, seconds: float
) -> None:
    """One line of JSON for each call: sizes, times and who, never what was said."""
    if not _calls.isEnabledFor(logging.INFO):
        return
    line: dict[str, object] = {
        "time": round(time.time(), 3), "key": owner[:8], "session": session[:8],
        "id": request.id, "start": request.start, "ids": len(request.tokens),
        "weights": len(request.weights), "drafts": len(request.drafts),
        "ms": round(1e3 * seconds, 3),
    }  # fmt: skip
    if isinstance(outcome, Reply):
        line |= {
            "accepted": outcome.accepted, "tokens": len(outcome.tokens), "held": outcome.held,
            "queue_us": outcome.us.queue, "model_us": outcome.us.model,
        }  # fmt: skip
    else:
        line |= {"conflict": outcome.held}
    _calls.info(json.dumps(line))
