"""A model's own chat template: code from a file or from the network, so it is held on a leash.

The shipped templates are rendered in this process. Any other is rendered by a child process with
limits of processor time and memory that the system enforces, inside C code too; it has no key and
no variable of ours in its environment, and lives as long as the template is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from ..common.errors import ModelError, ResourceError
from ..common.prompts import Message
from ..common.text import one_line
from . import sandbox
from .sandbox import Refused, compile_template, read_message, render, write_message

__all__ = ["DEFAULT_TEMPLATE", "ChatTemplate", "Message", "TemplateOwner"]

DEFAULT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For models that bring none."""

SHIPPED = frozenset(
    {
        hashlib.sha256(DEFAULT_TEMPLATE.encode()).hexdigest(),
        "633e8dfbc1ec9a086e11cb721f96bc4a386cb5a4b821272d1697740b97af869b",  # the demo pair's
    }
)
"""SHA-256 of the templates that come with the project."""

SECONDS = 2.0
"""Of computing that a template may take. What else the machine does costs nothing of it."""

_MAX_SOURCE = 256 * 1024
_PATIENCE = 30.0  # seconds, whoever takes them
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TZ")
_START = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "runpy.run_path(sys.argv[2], run_name='__main__')"
)


class TemplateOwner(Protocol):
    """Who has a chat template: a vocabulary, or what a verifier says of itself."""

    @property
    def template(self) -> str | None: ...
    @property
    def bos(self) -> str: ...
    @property
    def eos(self) -> str: ...


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text.
        bos: what `bos_token` stands for.
        eos: what `eos_token` stands for.

    Raises:
        ModelError: it is too long or is no template.
        ResourceError: no process can be started to render it.
    """

    def __init__(self, source: str | None, bos: str = "", eos: str = "") -> None:
        source = DEFAULT_TEMPLATE if source is None else source
        if len(source) > _MAX_SOURCE:
            raise ModelError("the chat template is longer than 256 KiB; use another model file")
        names = {"bos_token": bos, "eos_token": eos}
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        self._renderer: _InProcess | _Child
        with _told():
            self._renderer = (_InProcess if digest in SHIPPED else _Child)(source, names)

    def render(self, messages: Sequence[Message], reply: bool = True) -> str:
        """The text that the model is given.

        Args:
            messages: the conversation, oldest first.
            reply: end with the beginning of the assistant's next message.

        Raises:
            ModelError: the template refuses these messages, fails, or breaks a bound.
            ResourceError: no process can be started to render it.
        """
        with _told():
            return self._renderer.render(
                {"messages": list(messages), "add_generation_prompt": reply}
            )


class _told:
    """Turns a refusal into the error that a user sees."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Refused):
            raise ModelError(f"the chat template {one_line(str(error), 200)}") from None


class _InProcess:
    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        self._template = compile_template(source, names)

    def render(self, variables: Mapping[str, Any]) -> str:
        return render(self._template, variables)


class _Child:
    """A child process with one template; it is started again when it was stopped."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        self._first = {"source": source, "names": names, "seconds": SECONDS}
        self._lock = threading.Lock()
        self._stop: weakref.finalize[Any, Any] | None = None
        with self._lock:
            self._start()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- this interpreter and our own file
                [sys.executable, "-IS", "-c", _START, json.dumps(sys.path), sandbox.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                start_new_session=True,  # Ctrl-C comes here first, and from here to the child
            )
        except OSError as error:
            raise ResourceError(
                f"no process can be started to render the chat template: {error.strerror}"
            ) from error
        self._stop = weakref.finalize(self, _kill, self._process)
        self._ask(self._first)

    def render(self, variables: Mapping[str, Any]) -> str:
        with self._lock:
            if self._stop is None or not self._stop.alive:
                self._start()
            return self._ask(variables)

    def _ask(self, request: Mapping[str, Any]) -> str:
        """The answer; whatever is wrong, Ctrl-C too, ends the child."""
        process, answer = self._process, None
        assert process.stdin is not None  # noqa: S101 -- they were asked for
        assert process.stdout is not None  # noqa: S101
        patience = threading.Timer(_PATIENCE, process.kill)
        patience.daemon = True
        patience.start()
        try:
            with suppress(OSError):  # it is gone, or was killed: no answer either way
                write_message(process.stdin, json.dumps(request).encode())
                answer = read_message(process.stdout)
        finally:
            patience.cancel()
            if answer is None and self._stop is not None:
                self._stop()
        if answer is None:
            raise Refused("takes too much time or memory; it was stopped")
        text = answer.decode("utf-8", "surrogatepass")
        if text[:1] != "+":
            raise Refused(text[1:])
        return text[1:]


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent is not
            if pipe is not None:
                pipe.close()
