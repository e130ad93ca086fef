"""The device over HTTP, as clients of the OpenAI API know it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...common.errors import UhlmError, UsageError
from ...common.keys import Keys
from ...common.listen import is_loopback
from ...configs.flags import FLAG_KEYS
from .answers import Answer, ChatAnswer, CompletionAnswer
from .assistants import Grammar, PromptTooLong
from .condition import Condition, telling
from .hybrid import Hybrid
from .metrics import Metrics
from .page import page_routes
from .reply import Reply
from .requests import ApiError, ChatRequest, CompletionRequest, parsed
from .turns import Busy, Turns

MAX_BODY = 4 << 20
"""Bytes of a request: far more than any context holds."""

_log = logging.getLogger("uhlm_edge.serve")
_FIELDS = {".".join(key): name for name, key in FLAG_KEYS.items()}
_SSE = {"cache-control": "no-cache", "x-accel-buffering": "no"}
Handler = Callable[[Request], Awaitable[Response]]


def make_app(hybrid: Hybrid, keys: Keys, queue: int, loopback: bool = True) -> Starlette:
    """The ASGI app. Every route of the API but `/health` asks for a key, if there are keys.

    Args:
        hybrid: the models.
        keys: who is let in.
        queue: requests that may wait.
        loopback: only this machine reaches the server. Then no other name for it is answered to,
            so that a page of some web site cannot make a browser talk to it.
    """
    api = _Api(hybrid, keys, queue, loopback)
    return Starlette(
        routes=[  # tried in this order
            Route("/v1/chat/completions", api.guarded(api.chat), methods=["POST"]),
            Route("/v1/completions", api.guarded(api.complete), methods=["POST"]),
            Route("/v1/info", api.guarded(api.info)),
            Route("/v1/device", api.guarded(telling(Condition(hybrid.budget)))),
            Route("/v1/models", api.guarded(api.models)),
            Route("/v1/models/{id:path}", api.guarded(api.model)),
            Route("/health", api.guarded(api.health, open_to_all=True)),
            Route("/metrics", api.guarded(api.metrics)),
            *page_routes(),
        ],
        exception_handlers=dict.fromkeys(
            (ApiError, HTTPException, UhlmError, ClientDisconnect, Exception), _on_error
        ),
    )


class _Api:
    """The routes."""

    def __init__(self, hybrid: Hybrid, keys: Keys, queue: int, loopback: bool) -> None:
        self._hybrid = hybrid
        self._keys = keys
        self._loopback = loopback
        self._turns = Turns(queue)
        self._counts = Metrics()
        self._started = int(time.time())

    def guarded(self, handler: Handler, open_to_all: bool = False) -> Handler:
        """A route that lets in who may."""

        async def check(http: Request) -> Response:
            if self._loopback and not is_loopback(http.url.hostname or ""):
                raise ApiError(403, "this server answers only to the name localhost")
            if not open_to_all and self._keys.owner(http.headers.get("authorization")) is None:
                raise ApiError(
                    401,
                    "incorrect API key: send authorization: Bearer KEY with a key of this server",
                    code="invalid_api_key",
                )
            return await handler(http)

        return check

    async def health(self, _: Request) -> Response:
        """Is it there? Open to all."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """Counters for Prometheus."""
        gauges = {"waiting": self._turns.waiting, "busy": int(self._turns.taken)}
        budget = self._hybrid.budget
        text = self._counts.text(None if budget is None else budget.to_json(), **gauges)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def info(self, _: Request) -> Response:
        """What kind of server this is, and what the page offers to choose from."""
        options = self._hybrid.config.strategy
        return JSONResponse(
            {
                "kind": "openai",
                "model": self._hybrid.device,
                "context": self._hybrid.n_ctx,
                "verifier": self._hybrid.verifier,
                "online": self._hybrid.has_verifier,
                "strategy": options.name,
                "threshold": options.threshold,
                "strategies": list(self._hybrid.strategies),
                "scores": self._hybrid.scores,
            }
        )

    async def models(self, _: Request) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, http: Request) -> Response:
        """The one model, by name."""
        self._require(http.path_params["id"])
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        name, made = self._hybrid.device, self._started
        return {"id": name, "object": "model", "created": made, "owned_by": "uhlm-edge"}

    def _require(self, name: str | None) -> None:
        if name not in (None, self._hybrid.device):
            raise ApiError(
                404, f"the model {name!r} does not exist; there is {self._hybrid.device!r}",
                "model", "model_not_found",
            )  # fmt: skip

    async def chat(self, http: Request) -> Response:
        """A reply to a conversation."""
        request: ChatRequest = parsed(ChatRequest, await _body(http))
        self._require(request.model)
        grammar = await self._grammar(request)
        reply = self._refusing(
            lambda: self._hybrid.generate(
                request.conversation, stop=request.stops, grammar=grammar, **request.options
            )
        )
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return await self._answer(http, request, ChatAnswer(self._hybrid.device, reply, logprobs))

    async def complete(self, http: Request) -> Response:
        """A text, gone on with."""
        request: CompletionRequest = parsed(CompletionRequest, await _body(http))
        self._require(request.model)
        grammar = await self._grammar(request)
        reply = self._refusing(
            lambda: self._hybrid.complete(
                request.text, stop=request.stops, grammar=grammar, **request.options
            )
        )
        answer = CompletionAnswer(self._hybrid.device, reply, request.logprobs)
        return await self._answer(http, request, answer)

    async def _grammar(self, request: ChatRequest | CompletionRequest) -> Grammar | None:
        """What the reply is bound to. It is read beside the loop: that may take its time."""
        if request.bound_to is None:
            return None
        field, given = request.bound_to
        try:
            return await asyncio.to_thread(self._hybrid.read_grammar, given)
        except UsageError as error:
            self._counts.ended("refused")
            raise ApiError(400, str(error), field, "invalid_value") from None

    def _refusing(self, make: Callable[[], Reply]) -> Reply:
        """A reply; what is wrong with the request is told in OpenAI's form."""
        try:
            return make()
        except PromptTooLong as error:
            self._counts.ended("refused")
            raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
        except UsageError as error:
            self._counts.ended("refused")
            key = str(error).split(" ", 1)[0].rstrip(":")
            field = _FIELDS.get(key, key.rpartition(".")[2])
            raise ApiError(400, str(error), field, "invalid_value") from None

    async def _answer(
        self, http: Request, request: ChatRequest | CompletionRequest, answer: Answer
    ) -> Response:
        batches = self._in_turn(http, answer.reply, whole=not request.stream)
        if request.stream:
            options = request.stream_options
            usage = options is not None and options.include_usage
            return _Stream(http, _events(answer, batches, usage))
        await _unless_left(http, _read(batches))
        return Response(answer.whole(), media_type="application/json")

    async def _in_turn(self, http: Request, reply: Reply, whole: bool) -> Any:
        """The tokens of a reply, batch by batch, when it is this client's turn."""
        outcome = "left"
        try:
            async with self._turns.turn(http.client.host if http.client else ""):
                async with aclosing(self._hybrid.asynchronous(reply).batches(whole)) as batches:
                    async for batch in batches:
                        yield batch
                outcome = reply.finish_reason or "left"
        except Busy:
            outcome = "busy"
            raise ApiError(
                429, "too many requests wait for the device; try again later",
                code="rate_limit_exceeded",
            ) from None  # fmt: skip
        except UhlmError:
            outcome = "failed"
            raise
        finally:
            self._counts.ended(outcome)
            self._counts.add(reply)


async def _events(answer: Answer, batches: Any, usage: bool) -> AsyncGenerator[bytes, None]:
    """The events of a stream; those of tokens that are there together go together."""
    begun = False
    async with aclosing(batches):
        try:
            async for batch in batches:
                yield answer.pieces(batch) if begun else answer.begin() + answer.pieces(batch)
                begun = True
        except UhlmError as error:
            if not begun:  # it can still be an HTTP status
                raise
            yield _failed(error)
            return
    begins = b"" if begun else answer.begin()
    yield begins + answer.end() + answer.usage_event() * usage + b"data: [DONE]\n\n"


class _Stream(Response):
    """Events, sent as they come while the client is there.

    Starlette's own has more to do for each event. Nothing is sent before the first one is there.
    """

    def __init__(self, http: Request, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=_SSE, media_type="text/event-stream")
        del self.headers["content-length"]
        self._http, self._events = http, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):  # nobody is there to tell
            await _unless_left(self._http, self._sent(send))

    async def _sent(self, send: Send) -> None:
        begun = False
        async with aclosing(self._events) as events:
            async for event in events:
                if not begun:
                    head = {"status": self.status_code, "headers": self.raw_headers}
                    await send({"type": "http.response.start", **head})
                    begun = True
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _read(batches: Any) -> None:
    async with aclosing(batches):
        async for _ in batches:
            pass


async def _unless_left(http: Request, work: Any) -> Any:
    """Wait for something, but not for a client that has gone away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _body(http: Request) -> bytes:
    """The body. Anything but JSON is refused: a page of another site could send it unasked."""
    if not http.headers.get("content-type", "").startswith("application/json"):
        raise ApiError(415, "send JSON, with content-type: application/json")
    parts = bytearray()
    async for chunk in http.stream():
        parts += chunk
        if len(parts) > MAX_BODY:
            raise ApiError(413, f"a request may have {MAX_BODY} bytes")
    return bytes(parts)


def _failed(error: UhlmError) -> bytes:
    """The event of a failure in the middle of a stream."""
    _log.warning("%s: %s", type(error).__name__, error)
    text = JSONResponse(ApiError(500, str(error)).to_json()).body
    return b"data: " + bytes(text) + b"\n\n"


_HTTP = {404: "there is nothing at this address", 405: "this method is not allowed here"}


async def _on_error(_: Request, error: Exception) -> Response:
    """Any error as the API has it; what is not one of ours is told to the log only."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, _HTTP.get(error.status_code, error.detail))
    if not isinstance(error, ApiError):
        ours = isinstance(error, UhlmError)
        level = logging.WARNING if ours else logging.ERROR
        _log.log(level, "%s: %s", type(error).__name__, error)
        error = ApiError(500, str(error) if ours else "the server failed")
    response = JSONResponse(error.to_json(), error.status)
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if error.status == 429:
        response.headers["retry-after"] = "1"
    return response
