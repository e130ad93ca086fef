"""`uhlm-edge quantize`: what it takes and what it prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.streams import emit
from ..common.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from .convert.writer import Progress
    from .pipeline import PlannedFile, Prepared


def quantize(
    src: Annotated[
        str, typer.Argument(help="Hugging Face folder, GGUF (F32, F16, BF16), or a name to pull.")
    ],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", help="Type to make, such as Q4_K_M; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the files.")] = None,
    dtype: Annotated[str, typer.Option(help="What to quantise from: F16, BF16 or F32.")] = "F16",
    prompts: Annotated[
        Path | None, typer.Option(help="Your texts (.txt, .jsonl) for an importance matrix.")
    ] = None,
    imatrix: Annotated[Path | None, typer.Option(help="Importance matrix made before.")] = None,
    report: Annotated[bool, typer.Option(help="Measure each file against the original.")] = False,
    text: Annotated[
        Path | None, typer.Option(help="Text to measure on; default: built-in prompts.")
    ] = None,
    cloud: Annotated[
        str | None, typer.Option(help="The cloud model, to measure the pair: a name or a GGUF.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--report-json", help="Write the report here.")
    ] = None,
    png: Annotated[Path | None, typer.Option("--report-png", help="Draw the report here.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: one per core.")] = 0,
) -> None:
    """Convert and quantise a model: from a Hugging Face folder to files that run."""
    from ..common.errors import UsageError
    from ..common.files import interruptible
    from ..models.resolve import find_model, model_source
    from .pipeline import Listener, QuantizeRequest, ReportRequest, prepare
    from .quality.samples import read_samples

    if prompts is not None and imatrix is not None:
        raise UsageError("--prompts makes an importance matrix and --imatrix is one; give one")
    wants_report = report or json_out is not None or png is not None
    if (text is not None or cloud is not None) and not wants_report:
        raise UsageError(
            "--text and --cloud are for the report; add --report, --report-json or --report-png"
        )
    request = QuantizeRequest(
        src=model_source(src, "safetensors"),
        types=types or ["Q4_K_M"],
        out=out,
        dtype=dtype.upper(),
        imatrix=imatrix,
        prompts=read_samples(prompts) if prompts is not None else (),
        prompts_name=prompts.name if prompts is not None else "",
        threads=threads,
        report=ReportRequest(
            read_samples(text),
            text.name if text else "built-in prompts",
            find_model(cloud) if cloud else None,
        )
        if wants_report
        else None,
    )
    with interruptible(), _progress() as (console, stage):
        try:
            prepared = prepare(request, Listener(lambda files: _print_plan(console, files), stage))
        except ImportError as error:
            missing = f"{error.name} is missing; run: pip install 'uhlm-edge[quantize]'"
            raise UsageError(missing) from None
    _print_result(console, prepared, json_out, png)


@contextmanager
def _progress() -> Iterator[tuple[Console, Callable[[str], Progress]]]:
    """Bars on stderr, one per stage; nothing but lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr, soft_wrap=True)
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", markup=False),
        console=console,
        disable=not console.is_terminal,
    )

    def stage(title: str) -> Callable[[int, int, str], None]:
        if not console.is_terminal:
            console.print(one_line(title), highlight=False, markup=False)
        task = bars.add_task(one_line(title), total=None, what="")

        def update(done: int, total: int, what: str) -> None:
            bars.update(task, completed=done, total=total, what=one_line(what))

        return update

    with bars:
        yield console, stage


def _print_plan(console: Console, files: Sequence[PlannedFile]) -> None:
    """The predicted sizes, before anything is written."""
    from ..common.text import human_bytes

    for file in files:
        note = f", {file.fallbacks} tensors in another type" if file.fallbacks else ""
        line = f"{file.path.name}: {human_bytes(file.nbytes)}{note}"
        console.print(one_line(line), highlight=False, markup=False)


def _print_result(
    console: Console, prepared: Prepared, json_out: Path | None, png: Path | None
) -> None:
    """The paths on stdout, one a line; the report on stderr and in its files."""
    report = prepared.report
    if report is not None:
        console.print(report.table())
        if json_out is not None:
            report.write_json(json_out)
        if png is not None:
            from .quality.plot import plot_report

            plot_report(report, png)
    for path in (*prepared.files, *([prepared.imatrix] if prepared.imatrix else [])):
        emit(path)
