"""The manual page (roff) and the reference (Markdown) of all commands."""

from __future__ import annotations

from collections.abc import Iterator

from .tree import Command, Option

EXIT_CODES = (
    (0, "done"),
    (1, "failed"),
    (2, "wrong usage"),
    (3, "a model file is refused"),
    (4, "a verifier is required and cannot be reached"),
    (130, "interrupted by Ctrl-C; a server that is told to stop (SIGINT, SIGTERM) ends with 0"),
)
VARIABLES = (
    ("UHLM_SECTION_KEY", "any key of the configuration, such as UHLM_CHAT_SEED"),
    ("UHLM_PROFILE", "a named profile, as --profile"),
    ("UHLM_CONFIG", "a config file, as --config"),
    ("UHLM_API_KEY", "the key of the verifier; on the verifier: the key that it asks for"),
    ("UHLM_NO_CLOUD", "1: open no connection, as --offline"),
    ("UHLM_MODELS", "the folder of pulled models"),
    ("NO_COLOR", "anything: marks without colours"),
)


def man_page(root: Command, version: str) -> str:
    """The manual page of section 1 for the whole command."""
    lines = [
        f'.TH "{root.name.upper()}" "1" "" "{root.name} {version}" "User Commands"',
        ".SH NAME",
        f"{_roff(root.name)} \\- {_roff(root.brief.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(root.name)}",
        "COMMAND [OPTIONS]",
        ".SH DESCRIPTION",
        *_paragraphs(root.help),
        ".SH COMMANDS",
    ]
    for command in list(root.walk())[1:]:
        if command.subcommands:
            continue
        lines += [f".SS {_roff(command.usage)}", *_paragraphs(command.help)]
        for argument in command.arguments:
            lines += [".TP", f".I {_roff(argument.name)}", _roff(argument.help)]
        for option in command.options:
            lines += [".TP", f"\\fB{_roff(_spelt(option))}\\fR", _roff(option.help)]
    lines.append(".SH ENVIRONMENT")
    for name, help_ in VARIABLES:
        lines += [".TP", f".B {_roff(name)}", _roff(help_)]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += [".TP", f".B {code}", meaning]
    return "\n".join(lines) + "\n"


def reference(root: Command) -> str:
    """All commands in Markdown: what docs/cli.md holds."""
    return "\n".join(_reference(root)) + "\n"


def _reference(root: Command) -> Iterator[str]:
    yield from ("# Command line", "")
    yield "Made from the commands by `python -m uhlm_edge.shell.pages`; a test compares the two."
    yield from ("", root.help, "")
    yield from ("| command | does |", "|---|---|")
    commands = [c for c in root.walk() if not c.subcommands]
    for command in commands:
        anchor = command.name.replace(" ", "-")
        yield f"| [`{command.name}`](#{anchor}) | {_cell(command.brief)} |"
    yield ""
    yield "Exit codes: " + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES) + "."
    yield from ("", "| variable | sets |", "|---|---|")
    for name, help_ in VARIABLES:
        yield f"| `{name}` | {_cell(help_)} |"
    for command in commands:
        yield from ("", f"## {command.name}", "", f"`{command.usage}`", "", command.help)
        if command.arguments or command.options:
            yield from ("", "| | |", "|---|---|")
        for argument in command.arguments:
            yield f"| `{argument.name}` | {_cell(argument.help)} |"
        for option in command.options:
            yield f"| `{_cell(_spelt(option))}` | {_cell(option.help)} |"


def _spelt(option: Option) -> str:
    names = ", ".join(option.names)
    return f"{names} {option.value}" if option.value else names


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [".PP", _roff(" ".join(paragraph.split()))]
    return lines


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    from importlib import import_module

    print(import_module("uhlm_edge.cli").pages("markdown"), end="")
