"""The verifier over HTTP: routes, keys, limits, error bodies."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..common.errors import ContextFull, DeadlineExceeded, EngineError
from ..common.worker import Closed, Full
from ..wire.codec import Malformed, OutOfRange
from ..wire.messages import MEDIA_TYPE, Conflict, Request
from .metrics import exposition
from .service import Service

__all__ = ["make_app"]

_log = logging.getLogger("uhlm_edge.cloud")
_SESSION_ID = re.compile(r"[0-9a-f]{32}")
Handler = Callable[[HttpRequest, str], Awaitable[Response]]


def make_app(service: Service) -> Starlette:
    """The ASGI app. Every route but `/health` asks for a key."""

    scheduler = service.verifier.scheduler

    async def health(_: HttpRequest) -> Response:
        status = 200 if service.ready else 503
        return JSONResponse({"ready": service.ready}, status)

    async def info(_: HttpRequest, __: str) -> Response:
        return Response(service.info().model_dump_json(), media_type="application/json")

    async def verify(http: HttpRequest, owner: str) -> Response:
        session_id = _session_id(http.headers.get("x-session-id", ""))
        if not service.ready:
            raise HTTPException(503, "the verifier is stopping")
        body = await _body(http, service.limits.body_bytes)
        n_vocab = len(service.vocab)
        is_json = http.headers.get("content-type", "").startswith("application/json")
        if is_json:
            request = Request.from_json(_json(body), service.limits, n_vocab)
        else:
            request = Request.unpack(body, service.limits, n_vocab)
        key = (owner, session_id)
        deadline = time.perf_counter() + _patience(http.headers.get("x-deadline-ms"))
        call = scheduler.submit(key, request, deadline)
        reply = await asyncio.wrap_future(call.future)
        if isinstance(reply, Conflict):
            return _error(409, "send from `held` on, with settings", **reply.to_json())
        if is_json:
            return JSONResponse(reply.to_json())
        return Response(reply.pack(), media_type=MEDIA_TYPE)

    async def metrics(_: HttpRequest, __: str) -> Response:
        numbers = exposition(scheduler.observed, scheduler.counters, service.gauges)
        return PlainTextResponse(numbers, media_type="text/plain; version=0.0.4")

    async def forget(http: HttpRequest, owner: str) -> Response:
        key = (owner, _session_id(http.path_params["id"]))
        await asyncio.wrap_future(scheduler.forget(key))
        return Response(status_code=204)

    def keyed(handler: Handler) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def check(http: HttpRequest) -> Response:
            owner = service.keys.owner(http.headers.get("authorization"))
            if owner is None:
                raise HTTPException(401, "this verifier wants a key: authorization: Bearer KEY")
            return await handler(http, owner)

        return check

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/info", keyed(info)),
            Route("/metrics", keyed(metrics)),
            Route("/v1/verify", keyed(verify), methods=["POST"]),
            Route("/v1/sessions/{id}", keyed(forget), methods=["DELETE"]),
        ],
        exception_handlers={
            HTTPException: _on_http,
            Malformed: _answer_with(400),
            OutOfRange: _answer_with(422),
            DeadlineExceeded: _answer_with(504),
            ContextFull: _answer_with(503, retry_after=1),
            EngineError: _answer_with(500),
            Full: _answer_with(429, "too many calls wait", retry_after=1),
            Closed: _answer_with(503, "the verifier is stopping"),
            ClientDisconnect: _answer_with(400, "the device hung up"),
            Exception: _answer_with(500, "the verifier failed"),
        },
    )
    app.router.redirect_slashes = False  # a redirect would answer without asking for a key
    return app


async def _body(http: HttpRequest, limit: int) -> bytes:
    """The body, refused before it is read if it is too large."""
    declared = http.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,12}", declared) or int(declared) > limit:
        raise HTTPException(413, f"a body may have {limit} bytes")
    parts = bytearray()
    async for chunk in http.stream():
        parts += chunk
        if len(parts) > limit:
            raise HTTPException(413, f"a body may have {limit} bytes")
    return bytes(parts)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None


def _patience(header: str | None) -> float:
    """Seconds that the device still waits, by its own word; a day if it does not say."""
    if header is None:
        return 86_400.0
    if not re.fullmatch("[0-9]{1,8}", header):
        raise Malformed("x-deadline-ms must be milliseconds")
    return int(header) / 1e3


def _session_id(text: str) -> str:
    if not _SESSION_ID.fullmatch(text):
        raise Malformed("x-session-id must be 32 hex digits")
    return text


def _error(status: int, message: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": {"code": status, "message": message}, **more}, status)


async def _on_http(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - starlette calls it for nothing else
    response = _error(error.status_code, error.detail)
    if error.status_code == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _answer_with(
    status: int, message: str | None = None, retry_after: int | None = None
) -> Callable[[HttpRequest, Exception], Awaitable[Response]]:
    async def handle(_: HttpRequest, error: Exception) -> Response:
        if status >= 500:
            _log.warning("%s: %s", type(error).__name__, error)
        response = _error(status, message or str(error))
        if retry_after is not None:
            response.headers["retry-after"] = str(retry_after)
        return response

    return handle
