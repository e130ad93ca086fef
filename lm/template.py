"""A model's own chat template: code from a file or from the network, so it is held on a leash.

The shipped templates are rendered in this process. Any other is rendered by a child process with
limits of processor time and memory that the system enforces, inside C code too; it has no key and
no variable of ours in its environment, and lives as long as the template is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..common.errors import ModelError
from ..common.prompts import Message
from ..common.text import one_line
from . import sandbox
from .child import Child
from .sandbox import Refused, compile_template, render

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
    """A child process with one template."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        first = {"source": source, "names": names, "seconds": SECONDS}
        self._child = Child(_START, [sandbox.__file__], first, "render the chat template")

    def render(self, variables: Mapping[str, Any]) -> str:
        return self._child.ask(variables).decode("utf-8", "surrogatepass")
