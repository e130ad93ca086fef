"""Render a conversation by the model's own chat template, which is code from a file: sandboxed.

Bounds: the source, what is rendered, the time, and single operations that could eat the memory.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn, TypedDict

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from ..common.errors import ModelError
from ..common.text import one_line

__all__ = ["DEFAULT_TEMPLATE", "ChatTemplate", "Message"]

_MAX_SOURCE = 256 * 1024
_MAX_RENDERED = 4 * 1024 * 1024
_MAX_MADE = 16 * _MAX_RENDERED  # by all operations of one rendering
_MAX_SECONDS = 2.0
_FAILURES = (
    TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, SyntaxError,
    MemoryError, AssertionError,
)  # fmt: skip

DEFAULT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For models that bring none."""


class Message(TypedDict):
    """One message of a conversation; role is system, user or assistant."""

    role: str
    content: str


# They make much of little, and no chat template needs them.
_METHODS_LEFT_OUT = frozenset(
    {"center", "encode", "expandtabs", "format", "format_map", "ljust", "rjust", "to_bytes"}
    | {"translate", "zfill"}
)
_FILTERS_LEFT_OUT = {"center", "filesizeformat", "format", "pprint", "urlize", "wordwrap"}


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no operation makes much of little: what they make is counted."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.made = 0
        for name in _FILTERS_LEFT_OUT:
            del self.filters[name]
        for name, function in self.filters.items():
            self.filters[name] = self._bounded(function)
        self.filters["join"] = self._join
        self.filters["replace"] = self._replace
        del self.globals["lipsum"]

    def _count(self, size: int) -> None:
        self.made += size
        if size > _MAX_RENDERED or self.made > _MAX_MADE:
            raise ModelError("the chat template makes too much text")

    def concat(self, parts: Iterable[str]) -> str:
        """What macros and blocks put their output together with."""
        parts = list(parts)
        self._count(sum(map(len, parts)))
        return "".join(parts)

    def _join(self, value: Any, d: Any = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = map(make_attrgetter(self, attribute), value)
        parts, between = [str(part) for part in value], str(d)
        self._count(sum(map(len, parts)) + len(parts) * len(between))
        return between.join(parts)

    def _replace(self, value: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = str(value), str(old), str(new)
        self._count(len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def _bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose numbers, times the size of its text, cannot be huge."""

        @functools.wraps(function)  # keeps the marks of filters that want the environment
        def call(*args: Any, **named: Any) -> Any:
            numbers = [abs(x) for x in (*args, *named.values()) if isinstance(x, int | float)]
            self._count(max(map(_size, args), default=0) * int(max(numbers, default=0)))
            result = function(*args, **named)
            self._count(_size(result))
            return result

        return call

    def wrap_str_format(self, value: Any) -> None:
        """No text may be formatted: a width makes it as long as it likes."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _METHODS_LEFT_OUT and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **named: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return __self._replace(owner, *args)
        if isinstance(owner, str) and name == "join":
            return __self._join(args[0], owner)
        result = super().call(__context, __obj, *args, **named)
        __self._count(_size(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = _size(left), _size(right)
        if operator == "%" and isinstance(left, str) and re.search(r"[0-9]{4}|\*", left):
            raise ModelError("the chat template formats with a huge width")
        if operator == "**" and (abs(left) > 1 << 16 or abs(right) > 64):
            raise ModelError("the chat template computes a huge power")
        if operator == "*":
            if isinstance(left, int) and isinstance(right, int):
                if left.bit_length() + right.bit_length() > 4096:
                    raise ModelError("the chat template computes a huge number")
            else:
                numbers = [x for x in (left, right) if isinstance(x, int)]
                self._count(max(sizes) * abs(max(numbers, default=0)))
        elif operator == "+":
            self._count(sum(sizes))
        return super().call_binop(context, operator, left, right)

    def _generate(self, source: nodes.Template, *args: Any, **named: Any) -> str:
        return super()._generate(_Joins().visit(source), *args, **named)


class _Joins(NodeTransformer):
    """Writes `a ~ b` as a filter, which the sandbox can bound."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "join", [], [], None, None, lineno=node.lineno)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict | Markup) else 0


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
        self._environment = environment = _Sandbox()
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form[:100])
        try:
            with _deadline(_MAX_SECONDS):
                self._template = environment.from_string(source)
        except (jinja2.TemplateError, *_FAILURES) as error:
            raise ModelError(f"the chat template is not valid: {_reason(error)}") from None
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
        size = self._environment.made = 0
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
            raise ModelError(
                f"the chat template refuses this conversation: {_reason(error)}"
            ) from None
        except _FAILURES as error:
            raise ModelError(f"the chat template fails: {_reason(error)}") from None
        return "".join(parts)


def _reason(error: BaseException) -> str:
    return one_line(str(error) or type(error).__name__, 200)


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
