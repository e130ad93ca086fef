"""Jinja as chat templates need it, and the program that runs it apart from this process.

The sandbox keeps a template from reaching what it was not given. Nothing in Python keeps it from
taking hours or all memory inside one C call, so a template that was not shipped is rendered by this
file run as a child process, which the system stops (`lm/template.py` starts it). It imports jinja2
and the standard library only: it is run by its path.

A message on its pipes is 4 bytes of length and the content. The first request is JSON: `source`,
`names`, and `seconds` of computing that each request may take; the others are the variables of a
rendering. An answer is "+" and a text, or "-" and why not.

A request may take as much memory as the idle process has, and eight bytes for each of its own: for
the text as read, its parts and the result, which JSON's escapes of other alphabets pay for too.
"""

from __future__ import annotations

import json
import signal
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

MAX_RENDERED = 4 << 20  # characters
MAX_MESSAGE = 64 << 20  # bytes
MEMORY = 256 << 20  # bytes of addresses, the most that a request may add
PER_BYTE = 8  # bytes, for each of a request's
_LENGTH = struct.Struct("<I")
_FAILURES = (
    TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, SyntaxError,
    MemoryError, AssertionError,
)  # fmt: skip


class Refused(Exception):
    """The template is none, refuses the conversation, or fails; the text says which."""


def compile_template(source: str, names: Mapping[str, str]) -> jinja2.Template:
    """Compile a chat template; `names` are variables that it always has.

    Raises:
        Refused: it is no template.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals.update(names)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form[:100])
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, *_FAILURES) as error:
        raise Refused(f"is not valid: {_reason(error)}") from None


def render(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """What a template makes of a conversation.

    Raises:
        Refused: it refuses the conversation, fails, or writes too much.
    """
    parts: list[str] = []
    size = 0
    try:
        for part in template.generate(**variables):
            parts.append(part)
            size += len(part)
            if size > MAX_RENDERED:
                raise Refused("renders more than 4 MiB")
    except jinja2.TemplateError as error:
        raise Refused(f"refuses this conversation: {_reason(error)}") from None
    except _FAILURES as error:
        raise Refused(f"fails: {_reason(error)}") from None
    return "".join(parts)


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:1000]


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(str(message)[:1000])


def read_message(stream: IO[bytes]) -> bytes | None:
    """The next message on a pipe; None at its end, or if it is longer than any should be."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size or (size := _LENGTH.unpack(head)[0]) > MAX_MESSAGE:
        return None
    content = stream.read(size)
    return content if len(content) == size else None


def write_message(stream: IO[bytes], content: bytes) -> None:
    """Put a message on a pipe."""
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


class Memory:
    """Bounds of what this process takes, where the system knows them.

    They count from what it has when this is made: by then it should have loaded what it needs.
    """

    def __init__(self) -> None:
        self._taken, self._idle = 0, MEMORY
        with suppress(OSError):
            pages = Path("/proc/self/statm").read_text().split()
            self._taken, self._idle = (int(n) * resource.getpagesize() for n in pages[:2])
        _limit("RLIMIT_CORE", 0)
        _limit("RLIMIT_FSIZE", 0)

    def limit(self, more: int | None = None) -> None:
        """From now on at most `more` bytes above twice what it had; None: the most of all."""
        most = MEMORY if more is None else min(self._idle + more, MEMORY)
        _limit("RLIMIT_AS", self._taken + most)


def _limit(kind: str, value: int) -> None:
    if resource is None or not hasattr(resource, kind):
        return
    number = getattr(resource, kind)
    hard = resource.getrlimit(number)[1]
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(number, (soft, hard))


def limit_time(seconds: float) -> None:
    """End this process when it has computed for so long; 0 for no limit.

    The signal has no handler, so it ends C code too, and other programs cost nothing of the time.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> None:
    """Answer requests until stdin ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    template: jinja2.Template | None = None
    seconds = 0.0
    memory = Memory()
    memory.limit()
    while (request := read_message(requests)) is not None:
        memory.limit(PER_BYTE * len(request))
        content = json.loads(request)
        seconds = content.pop("seconds", seconds)
        limit_time(seconds)
        try:
            if template is None:
                template = compile_template(content["source"], content["names"])
                answer = "+"
            else:
                answer = "+" + render(template, content)
        except Refused as error:
            answer = f"-{error}"
        limit_time(0)
        write_message(answers, answer.encode("utf-8", "surrogatepass"))
        memory.limit()


if __name__ == "__main__":
    main()
