"""How every benchmark writes its rows: one decorator, so that --out and --format mean the same.

A command returns a `Table`. It goes to stdout as Markdown, or by `--format`; with `--out FILE`,
which may be given several times, to files whose endings say the format.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ...common.errors import UsageError
from ...common.streams import complain, emit
from ...configs.flags import command_hints, configured

Row = dict[str, Any]

Data = Annotated[str, typer.Option(help="Prompts: JSON lines, or a shipped name.")]
Limit = Annotated[int, typer.Option(min=1, help="Only the first rows.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="What to ask; repeatable.")]
Plot = Annotated[Path | None, typer.Option(help="Folder for the picture.")]

_Out = Annotated[
    list[Path] | None,
    typer.Option("--out", help="File for the rows (.md, .csv, .json, .jsonl); repeatable."),
]
_Form = Annotated[
    str, typer.Option("--format", metavar="md|csv|json|jsonl", help="Of stdout without --out.")
]


@dataclass(frozen=True)
class Table:
    """What a benchmark found.

    Attributes:
        rows: may still be measured while they are read; an interrupt keeps those before it.
        columns: those that Markdown shows; None: all.
        markdown: the rows as Markdown, if it is more than a table of `columns`.
        picture: draws the rows into the folder `plot` and returns where.
        plot: None: no picture is wanted.
    """

    rows: Iterable[Row]
    columns: Sequence[str] | None = None
    markdown: Callable[[Sequence[Row]], str] | None = None
    picture: Callable[[Sequence[Row], Path], Path] | None = None
    plot: Path | None = None


def measurement(*flags: str) -> Callable[[Callable[..., Table]], Callable[..., None]]:
    """Make a command of a function that returns a `Table`.

    It takes `config: Config` first, made from --profile, --config and the shared `flags`, and is
    given --out and --format.
    """

    def decorate(command: Callable[..., Table]) -> Callable[..., None]:
        hints = command_hints(command)

        @functools.wraps(command)
        def measured(config: object, out: list[Path] | None, form: str, **own: Any) -> None:
            forms = [_form_of(path) for path in out or ()]
            for path in out or ():
                path.parent.mkdir(parents=True, exist_ok=True)
            if "out" in own_names:
                own["out"] = out
            table = command(config, **own)
            try:
                _finish(table, list(zip(out or (), forms, strict=True)), form)
            except KeyboardInterrupt:
                say("interrupted")
                raise

        own_names = list(inspect.signature(command).parameters)
        parameters = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "out"
        ]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [p.replace(kind=kind) for p in parameters] + [
            inspect.Parameter("out", kind, default=None, annotation=_Out),
            inspect.Parameter("form", kind, default="md", annotation=_Form),
        ]
        measured.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        measured.__annotations__ = {p.name: p.annotation for p in parameters}
        return configured(*flags)(measured)

    return decorate


def numbers(option: str, text: str, kind: Callable[[str], Any] = int) -> tuple[Any, ...]:
    """The numbers of an option's list with commas.

    Raises:
        UsageError: it is none, or empty.
    """
    try:
        found = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found:
        raise UsageError(f"{option} {text!r}: give numbers, with commas between them")
    return found


def say(line: str) -> None:
    """A line about the progress, on stderr."""
    complain(line)


def _form_of(path: Path) -> str:
    from ...common.tables import FORMATS

    form = path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"--out {path}: the name must end with .{', .'.join(FORMATS)}")
    return form


def _finish(table: Table, outs: Sequence[tuple[Path, str]], form: str) -> None:
    """Read the rows; write those that are whole, an interrupt's too, marked as partial."""
    found: list[Row] = []
    stopped = False
    try:
        found.extend({"partial_run": False, **row} for row in table.rows)
    except KeyboardInterrupt:
        stopped = True
        found = [{**row, "partial_run": True} for row in found]
    if found or not stopped:
        _write(table, found, outs, form, stopped)
    if stopped:
        raise KeyboardInterrupt
    if table.picture is not None and table.plot is not None:
        say(str(table.picture(found, table.plot)))


def _write(
    table: Table, rows: Sequence[Row], outs: Sequence[tuple[Path, str]], form: str, stopped: bool
) -> None:
    from ...common.files import atomic_output
    from ...common.tables import render

    columns = table.columns
    if stopped and columns is not None:
        columns = ("partial_run", *columns)

    def text(form: str) -> str:
        if form == "md" and table.markdown is not None:
            return table.markdown(rows)
        return render(rows, form, columns)

    if not outs and (rows or form != "md"):  # a table of nothing says nothing
        emit(text(form), end="")
    for path, ending in outs:
        with atomic_output(path) as part:
            part.write_text(text(ending), encoding="utf-8")
