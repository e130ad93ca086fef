"""The commands as data: what completion, man page and reference are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """An argument: its name as the usage line shows it, its help, whether it may be left out."""

    name: str
    help: str
    required: bool


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes:
        names: all spellings, long ones first.
        value: what follows it, "" for a switch.
        choices: the values it takes, if they can be listed.
    """

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """A command or a group of them.

    Attributes:
        path: of names, the program's first.
        help: its docstring, paragraphs apart.
        subcommands: of a group.
    """

    path: tuple[str, ...]
    help: str
    arguments: tuple[Parameter, ...]
    options: tuple[Option, ...]
    subcommands: tuple[Command, ...]

    @property
    def name(self) -> str:
        return " ".join(self.path)

    @property
    def brief(self) -> str:
        """The first sentence of the help."""
        return re.split(r"(?<=[.?!])\s|\n\n", self.help.replace("\n", " "), maxsplit=1)[0]

    @property
    def usage(self) -> str:
        parts = [self.name]
        if self.options:
            parts.append("[OPTIONS]")
        parts += [a.name if a.required else f"[{a.name}]" for a in self.arguments]
        if self.subcommands:
            parts.append("COMMAND")
        return " ".join(parts)

    def walk(self) -> Iterator[Command]:
        """This command and all below it."""
        yield self
        for command in self.subcommands:
            yield from command.walk()


def tree(command: Any, *path: str) -> Command:
    """Read a typer (click) command and all below it. What is hidden is left out."""
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    below = getattr(command, "commands", {})
    return Command(
        path,
        (command.help or "").strip(),
        tuple(_argument(p) for p in parameters if p.param_type_name == "argument"),
        tuple(_option(p) for p in parameters if p.param_type_name == "option"),
        tuple(tree(c, *path, name) for name, c in sorted(below.items()) if not c.hidden),
    )


def _argument(parameter: Any) -> Parameter:
    name = (parameter.metavar or parameter.name).upper().strip("[]")
    if parameter.nargs != 1:
        name += "..."
    return Parameter(name, parameter.help or "", parameter.required)


def _option(parameter: Any) -> Option:
    names = [*parameter.opts, *parameter.secondary_opts]
    names.sort(key=lambda name: not name.startswith("--"))
    value, choices = "", ()
    if not parameter.is_flag:
        # Of what typer knows, only these names are the same in all its versions.
        value = (parameter.metavar or parameter.name.rstrip("_")).strip("[]")
        choices = tuple(word for word in value.split("|") if word.islower()) if "|" in value else ()
        value = value if choices else value.upper()
    help_ = parameter.help or ""
    if parameter.default not in (None, False, "", (), []) and not callable(parameter.default):
        help_ = f"{help_} (default: {parameter.default})".strip()
    return Option(tuple(names), value, help_, choices)
