"""Render a conversation by the model's own chat template, which is code from a file: sandboxed.

Bounds: the source, what is rendered, the time, and single operations that could eat the memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn, TypedDict

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import ModelError

__all__ = ["DEFAULT_TEMPLATE", "ChatTemplate", "Message"]

_MAX_SOURCE = 256 * 1024
_MAX_RENDERED = 4 * 1024 * 1024
_MAX_SECONDS = 2.0

DEFAULT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For models that bring none."""


class Message(TypedDict):
    """One message of a conversation; role is system, user or assistant."""

    role: str
    content: str


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with repetition and powers bounded as well."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (abs(left) > 1 << 16 or abs(right) > 64):
            raise ModelError("the chat template computes a huge power")
        if operator == "*":
            sizes = [len(x) if isinstance(x, str | list | tuple) else abs(x) for x in (left, right)]
            if not all(isinstance(x, int | float) for x in (left, right)) and (
                sizes[0] * sizes[1] > _MAX_RENDERED
            ):
                raise ModelError("the chat template repeats a text too often")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text.
        bos: what `bos_token` stands for.
        eos: what `eos_token` stands for.

    Raises:
        ModelError: it is too long or is no template.
    """

    def __init__(self, source: str | None, bos: str = "", eos: str = "") -> None:
        source = DEFAULT_TEMPLATE if source is None else source
        if len(source) > _MAX_SOURCE:
            raise ModelError("the chat template is longer than 256 KiB; use another model file")
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"the chat template is not valid: {error}") from None
        self._names = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: Sequence[Message], reply: bool = True) -> str:
        """The text that the model is given.

        Args:
            messages: the conversation, oldest first.
            reply: end with the beginning of the assistant's next message.

        Raises:
            ModelError: the template refuses these messages, fails, or breaks a bound.
        """
        parts: list[str] = []
        size = 0
        try:
            with _deadline(_MAX_SECONDS):
                for part in self._template.generate(
                    messages=list(messages), add_generation_prompt=reply, **self._names
                ):
                    parts.append(part)
                    size += len(part)
                    if size > _MAX_RENDERED:
                        raise ModelError("the chat template renders more than 4 MiB")
        except jinja2.TemplateError as error:
            raise ModelError(f"the chat template refuses this conversation: {error}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ModelError(f"the chat template fails: {error}") from None
        return "".join(parts)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Interrupt Python code of this thread that runs too long.

    A template can loop without writing anything, and a thread cannot be stopped from outside; a
    trace function sees every line it runs.
    """
    limit = time.monotonic() + seconds
    before = sys.gettrace()

    def watch(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        if time.monotonic() > limit:
            raise ModelError("the chat template takes longer than 2 seconds")
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
