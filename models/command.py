"""`uhlm-edge pull`, `models` and `inspect`: what they take and what they print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.streams import emit

if TYPE_CHECKING:
    from .download import Progress

models_app = typer.Typer(help="Pulled models: list, remove.", no_args_is_help=True)


def pull(
    name: Annotated[str, typer.Argument(help="Of the catalogue, or OWNER/REPO; then :TYPE.")],
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch.")] = None,
) -> None:
    """Download a model, resumed and verified, and print where it lies."""
    from .hub import pull as run

    with _progress() as progress:
        pulled = run(name, revision=revision, progress=progress)
    stored = pulled.stored
    emit(stored.path)
    licence = f", licence {stored.licence}" if stored.licence else ""
    emit(f"{stored.repo}:{stored.type} at {stored.commit[:12]}{licence}", err=True)


def pull_missing(*names: str) -> None:
    """Pull those models of the catalogue that are not here.

    Raises:
        UhlmError: see `pull`.
    """
    from ..common.errors import ModelError
    from .hub import pull as run
    from .resolve import locate_model

    for name in names:
        try:
            locate_model(name)
        except ModelError:
            with _progress() as progress:
                run(name, progress=progress)


def inspect(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
) -> None:
    """Check a GGUF file and print its header."""
    from .inspect import inspect as render

    emit(render(file, tensors))


@models_app.command("list")
def list_models() -> None:
    """List what was pulled, and what the catalogue offers."""
    from ..common.text import human_bytes
    from .catalogue import load, pairs
    from .store import Store, default_folder

    store = Store(default_folder(os.environ))
    for stored in store.models():
        emit(f"{stored.repo}:{stored.type}  {human_bytes(stored.n_bytes)}  {stored.path}")
    whole, partial = store.disk_use()
    emit(f"pulled: {human_bytes(whole)}, partial downloads: {human_bytes(partial)}", err=True)
    for entry in load().values():
        types = ", ".join(f"{type_} {human_bytes(n)}" for type_, n in entry.sizes.items())
        gated = ", asks for a login" if entry.gated else ""
        emit(f"offered: {entry.name}  {entry.licence}{gated}  {types}", err=True)
    for name, (device, cloud) in pairs().items():
        emit(f"pair: {name}  device {device}, cloud {cloud}", err=True)


@models_app.command("remove")
def remove_model(
    name: Annotated[str, typer.Argument(help="As `models list` names it; without a type: all.")],
) -> None:
    """Remove a pulled model."""
    from ..common.text import human_bytes
    from .catalogue import parse_name
    from .store import Store, default_folder

    asked = parse_name(name)
    freed = Store(default_folder(os.environ)).remove(asked.repo, asked.type)
    emit(f"{human_bytes(freed)} set free", err=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr that shows bytes, rate and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    from ..common.text import one_line

    name = TextColumn("{task.description}", markup=False)  # no tags in it: it is the hub's
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bars = Bars(name, *columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def show(name: str, here: int, whole: int) -> None:
        if not tasks:
            bars.start()
        if name not in tasks:
            tasks[name] = bars.add_task(one_line(name, 40), total=whole)
        bars.update(tasks[name], completed=here)

    try:
        yield show
    finally:
        if tasks:  # else it would end a line that was never begun
            bars.stop()
