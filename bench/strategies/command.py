"""`uhlm-edge bench strategies`: parse, measure, print. Heavy modules are imported inside."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...common.errors import UsageError
from ..speed.overhead_command import register as register_overhead
from .uplinks_command import register as register_uplinks

if TYPE_CHECKING:
    from ...configs.config import Config
    from .specs import Entry

__all__ = ["plot_row", "print_table", "register", "strategies"]

LINEUP = "local,cloud,hlm,rand,uhlm@0.073,spec,ensemble@0.5"

COLUMNS = (
    ("strategy", "strategy", ""),
    ("accuracy", "accuracy", ".4f"),
    ("transmission_rate", "TR", ".4f"),
    ("calls", "calls", ".0f"),
    ("audits", "audits", ".0f"),
    ("risk", "risk", ".5f"),
    ("true_skip_rate", "TSR", ".4f"),
    ("rejection_rate", "rejected", ".4f"),
    ("oracle_rate", "oracle", ".4f"),
    ("llm_passes", "LLM passes", ".0f"),
    ("llm_positions", "positions", ".0f"),
    ("payload_bytes", "payload B/tok", ".1f"),
    ("wire_bytes", "wire B/tok", ".1f"),
    ("upload_body_median", "B/upload", ".0f"),
    ("tokens_per_s", "tok/s", ".1f"),
)

CAPTION = (
    "TR, risk and bytes are per id of the replies; calls, LLM passes and positions are totals over "
    "the rows. Risk, TSR and oracle come from shadow verification: a second copy of the LLM reads "
    "each reply when it is finished, outside the timed path."
)


def register(app: typer.Typer) -> None:
    """Add the commands to `bench`."""
    app.command()(strategies)
    register_uplinks(app)
    register_overhead(app)


def strategies(
    data: Annotated[Path, typer.Option(help="Rows to answer (JSON lines).")],
    lineup: Annotated[
        str, typer.Option("--strategies", help="With commas; NAME or NAME@PARAMETER.")
    ] = LINEUP,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs over the rows, with other draws.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder for the picture.")] = None,
    md: Annotated[Path | None, typer.Option(help="Write the tables here as Markdown.")] = None,
    profile: Annotated[str | None, typer.Option(help="Named profile (default: demo).")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")] = None,
    model: Annotated[str | None, typer.Option(help="Device model: file or shipped name.")] = None,
    llm: Annotated[str | None, typer.Option(help="Large model: file or shipped name.")] = None,
    cloud: Annotated[str | None, typer.Option(help="URL of a verifier.")] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Verifier in this process: no network at all.")
    ] = False,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    min_p: Annotated[float | None, typer.Option(help="0 is off.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of a reply.")] = None,
    estimator: Annotated[str | None, typer.Option(help="Of u: sampled or expected.")] = None,
    draft_limit: Annotated[str | None, typer.Option(help="spec, ensemble: or auto.")] = None,
    calibration: Annotated[str | None, typer.Option(help="Where thresholds come from.")] = None,
    pipelined: Annotated[
        bool | None, typer.Option("--pipelined/--no-pipelined", help="Draft on during a call.")
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow/--no-shadow", help="Measure risk, TSR and oracle.")
    ] = True,
    embeddings: Annotated[
        str | None, typer.Option(help="Embedding model for references (default: the LLM).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what an earlier run finished.")
    ] = False,
) -> None:
    """Accuracy, upload rate, risk, bytes and speed of each strategy, on the same rows."""
    from ...configs.layers import load_config
    from ...edge.policy.tuning import needs_calibration
    from ..harness.cases import read_cases
    from .comparison import Comparison, Journal
    from .setup import open_bench
    from .specs import parse_lineup

    chosen = None if pipelined is None else ("on" if pipelined else "off")
    flags: dict[tuple[str, ...], Any] = {
        ("device", "model"): model,
        ("verifier", "model"): llm,
        ("cloud", "url"): cloud,
        ("sampler", "temperature"): temperature,
        ("sampler", "top_k"): top_k,
        ("sampler", "top_p"): top_p,
        ("sampler", "min_p"): min_p,
        ("chat", "max_tokens"): max_tokens,
        ("strategy", "estimator"): estimator,
        ("strategy", "draft_limit"): draft_limit,
        ("strategy", "calibration"): calibration,
        ("strategy", "pipelined"): chosen,
    }
    loaded = load_config(flags, profile, config).config
    if in_process and cloud:
        raise UsageError("--in-process and --cloud exclude each other")
    entries = parse_lineup(lineup, loaded.strategy)
    cases = read_cases(data, limit)
    for folder in (json_out and json_out.parent, md and md.parent, plot):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(json_out and json_out.with_suffix(".units.jsonl"), fresh)
    needed = any(entry.calls for entry in entries)
    with open_bench(loaded, cases, needed, _say, in_process, shadow, embeddings) as bench:
        shared = repr((_about(loaded), in_process, shadow, embeddings))

        def more(entry: Entry) -> str:
            return shared + (_calibrations() if needs_calibration(entry.options) else "")

        every = range(seed, seed + seeds)
        comparison = Comparison(bench, entries, cases, every, journal, more)
        with _progress(len(entries) * len(every) * len(cases)) as advance:
            comparison.run(advance)
    rows = [{**row, **_settings(loaded, in_process)} for row in comparison.rows()]
    if comparison.reused:
        _say(f"{comparison.reused} replies are those of an earlier run (--fresh measures anew)")
    _write(rows, json_out, md, plot)
    if comparison.partial:
        _say("interrupted: these are the rows that were done; the same command goes on from here")
        raise KeyboardInterrupt


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda label, rows: progress.update(task, advance=rows, description=label)


def _settings(config: Config, in_process: bool) -> dict[str, Any]:
    """What the numbers were measured with: in every row."""
    return {
        **config.sampler.model_dump(),
        "device_model": Path(config.device.model).name,
        "llm": Path(config.verifier.model).name,
        "link": "in process" if in_process else "http",
        "shadow": "risk, true_skip_rate and oracle_rate: outside the timed path",
    }


def _about(config: Config) -> list[object]:
    """What tells these models and this program from others."""
    from ... import __version__
    from ...models.resolve import find_model

    files = [find_model(name).stat() for name in (config.device.model, config.verifier.model)]
    return [__version__, *((file.st_size, file.st_mtime_ns) for file in files)]


def _calibrations() -> str:
    """What tells these calibrations from others."""
    from ...configs.layers import config_folder
    from ...edge.policy.calibration import SHIPPED

    folders = (config_folder(os.environ) / "calibrations", SHIPPED)
    files = sorted(file for folder in folders for file in folder.glob("*") if file.is_file())
    return repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _write(
    rows: Sequence[dict[str, Any]], json_out: Path | None, md: Path | None, plot: Path | None
) -> None:
    """The tables on stdout, the rows as JSON, the tables as Markdown, the picture."""
    from ...common.files import atomic_output
    from ...common.tables import render
    from .claims import COLUMNS as CLAIMS
    from .claims import claim_rows

    if not rows:
        return
    print_table(rows)
    claims = render(claim_rows(rows), "md", CLAIMS) if claim_rows(rows) else ""
    sys.stdout.write(f"\n{claims}" if claims else "")
    if json_out is not None:
        with atomic_output(json_out) as part:
            part.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if md is not None:
        table = [{head: _cell(row, name, form) for name, head, form in COLUMNS} for row in rows]
        with atomic_output(md) as part:
            text = f"{render(table, 'md')}\n{CAPTION}\n\n{claims}"
            part.write_text(text, encoding="utf-8")
    if plot is not None:
        from ...common.plots import accuracy_against_rate

        picture = accuracy_against_rate([plot_row(row) for row in rows], plot / "strategies.png")
        _say(str(picture))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """The rows on stdout, as wide as they need."""
    from rich.console import Console
    from rich.table import Table

    table = Table(caption=CAPTION, caption_justify="left")
    for _, head, form in COLUMNS:
        table.add_column(head, justify="right" if form else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row, name, form) for name, _, form in COLUMNS))
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(table)


def _cell(row: dict[str, Any], name: str, form: str) -> str:
    value = row[name]
    if not form:
        return f"{value} (partial)" if row.get("partial") else str(value)
    if value is None:
        return "-"
    spread = row.get(f"{name}_ci")
    return format(value, form) + ("" if spread is None else f" ±{format(spread, form)}")


def plot_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the picture: one curve per strategy over its parameters, and the interval."""
    name, _, parameter = row["strategy"].partition("@")
    row = {**row, "strategy": parameter if parameter == "adaptive" else name}
    spread = row["accuracy_ci"]
    if spread is None:
        return row
    low, high = row["accuracy"] - spread, row["accuracy"] + spread
    return {**row, "accuracy_low": low, "accuracy_high": high}


def _say(line: str) -> None:
    print(f"uhlm-edge: {line}", file=sys.stderr, flush=True)
