"""What clients of the OpenAI API send, checked; what is not supported is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...configs.wording import requirement
from .options import REPLY_OPTIONS

_HARMLESS = {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Fields that change nothing about a reply here."""
_OFF: tuple[object, ...] = (None, 0, 0.0, False, [], {}, "none", "auto")
"""Values by which clients say that they do not use a field."""


class ApiError(Exception):
    """A refusal in OpenAI's form.

    Args:
        status: of HTTP.
        message: one line that says what to do.
        param: the field that is wrong.
        code: for programs.
        kind: `type` of the error; None: by the status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        by_status = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        default = "server_error" if status >= 500 else "invalid_request_error"
        self.kind = kind or by_status.get(status, default)

    def to_json(self) -> dict[str, Any]:
        """The body."""
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Text(_Strict):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Text]

    @property
    def text(self) -> str:
        """The content as one text."""
        parts = self.content
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    schema_: dict[str, Any] = Field(alias="schema")


class _Format(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class StreamOptions(_Strict):
    """How a stream is told."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Request(_Strict):
    """What both kinds of request have. Sampling options are checked with the configuration."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    grammar: str | None = None
    uhlm: dict[str, Any] | None = None

    @property
    def bound_to(self) -> tuple[str, str | dict[str, Any]] | None:
        """The field that binds the reply, and a grammar (GBNF) or a JSON schema; None: nothing."""
        return None if self.grammar is None else ("grammar", self.grammar)

    @property
    def stops(self) -> list[str]:
        """The stop texts."""
        given = self.stop or []
        return [given] if isinstance(given, str) else given

    @property
    def options(self) -> dict[str, Any]:
        """The options of the reply, named as the Python API names them."""
        own = ("max_tokens", "seed", "temperature", "top_p", "top_k", "min_p")
        given = {name: value for name in own if (value := getattr(self, name)) is not None}
        return {**given, **(self.uhlm or {})}


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: _Format | None = None

    @property
    def bound_to(self) -> tuple[str, str | dict[str, Any]] | None:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return super().bound_to
        schema = wanted.json_schema
        return "response_format", {"type": "object"} if schema is None else schema.schema_

    @property
    def conversation(self) -> list[dict[str, object]]:
        """The messages as the Python API takes them."""
        role = {"developer": "system"}
        return [{"role": role.get(m.role, m.role), "content": m.text} for m in self.messages]

    @property
    def options(self) -> dict[str, Any]:
        limit = self.max_completion_tokens
        return super().options | ({} if limit is None else {"max_tokens": limit})


class CompletionRequest(_Request):
    """`POST /v1/completions`: a text to go on with, as it is, without a chat template."""

    prompt: str | list[str]
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = None
    echo: bool = False
    suffix: str | None = None

    @property
    def text(self) -> str:
        """The one prompt."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) != 1:
            raise ApiError(400, "one prompt a request, please", "prompt", "unsupported_value")
        return self.prompt[0]


def parsed(kind: type[ChatRequest] | type[CompletionRequest], body: bytes) -> Any:
    """A request from a body.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(given, dict):
        raise ApiError(400, "the body must be a JSON object")
    try:
        request = kind.model_validate(_known(kind, given))
    except ValidationError as error:
        first = error.errors()[0]
        loc = first["loc"]
        message = f"{'.'.join(map(str, loc))} {requirement([first])}"
        # Where there are alternatives, pydantic names what each lacks.
        if "content" in loc:
            message = f"message {loc[1]}: the content must be text, or parts of type text"
        elif "str" in loc:
            message = f"{loc[0]} must be text, or a list of texts"
        raise ApiError(400, message, str(loc[0]), "invalid_value") from None
    _refuse_unsupported(request)
    return request


def _known(kind: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are known; a field that is not may only say that it is not used."""
    unknown = given.keys() - kind.model_fields.keys() - _HARMLESS
    for name in sorted(unknown):
        if given[name] not in _OFF:
            raise ApiError(
                400, f"{name} is not supported; leave it out", name, "unsupported_parameter"
            )
    return {name: value for name, value in given.items() if name in kind.model_fields}


def _refuse_unsupported(request: ChatRequest | CompletionRequest) -> None:
    if request.n not in (None, 1):
        raise ApiError(
            400, "n must be 1: one device model writes one reply at a time; send the request "
            "again with another seed", "n", "unsupported_value",
        )  # fmt: skip
    for name in request.uhlm or {}:
        if name not in REPLY_OPTIONS:
            options = ", ".join(REPLY_OPTIONS)
            raise ApiError(400, f"uhlm.{name}: there are {options}", "uhlm", "unknown_parameter")
    if isinstance(request, CompletionRequest):
        for name, off in (("best_of", (None, 1)), ("echo", (False,)), ("suffix", (None, ""))):
            if getattr(request, name) not in off:
                raise ApiError(
                    400, f"{name} is not supported; leave it out", name, "unsupported_parameter"
                )
        return
    wanted = request.response_format
    if wanted is not None and (wanted.type == "json_schema") != (wanted.json_schema is not None):
        raise ApiError(
            400, "response_format: type json_schema needs a json_schema, and no other type has one",
            "response_format", "invalid_value",
        )  # fmt: skip
    if request.grammar is not None and wanted is not None and wanted.type != "text":
        raise ApiError(400, "give response_format or a grammar, not both", "grammar")
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs", "invalid_value")
