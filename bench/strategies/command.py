"""`uhlm-edge bench strategies|uplinks`: what strategies get right, upload and cost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...common.errors import UsageError
from ..harness.output import Plot, Row, Table, measurement, say

if TYPE_CHECKING:
    from ...configs.config import Config
    from .specs import StrategySpec

SPECS = "local,cloud,hlm,rand,uhlm@0.073,spec,ensemble@0.5"

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

CAPTION = """\
TR, risk and bytes are per token of the replies; calls, LLM passes and positions are totals over the
rows. Risk, TSR and oracle come from shadow verification: a second copy of the LLM reads each reply
when it is finished, outside the timed path."""

Data = Annotated[
    str, typer.Option(help="Rows to answer: JSON lines, or shipped (tasks-eval, dialogues-eval).")
]
Limit = Annotated[int | None, typer.Option(help="Only the first rows.")]


@measurement(
    "model", "llm", "cloud", "temperature", "top_k", "top_p", "min_p", "max_tokens", "estimator",
    "draft_limit", "calibration", "pipelined", "partner",
)  # fmt: skip
def strategies(
    config: Config,
    data: Data,
    specs: Annotated[
        str, typer.Option("--strategies", help="With commas; NAME, NAME@PARAMETER, NAME+gumbel.")
    ] = SPECS,
    limit: Limit = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs over the rows, with other draws.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    plot: Plot = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Verifier in this process: no network at all.")
    ] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow/--no-shadow", help="Measure risk, TSR and oracle.")
    ] = True,
    embeddings: Annotated[
        str | None, typer.Option(help="Embedding model for references (default: the LLM).")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="handoff: URL of an OpenAI endpoint (default: the LLM, in process)."),
    ] = None,
    pass_ms: Annotated[
        str | None,
        typer.Option(
            help="As if a pass of each model took so long: MS+MS an id, device first, with commas."
        ),
    ] = None,
    cpu_time: Annotated[
        bool,
        typer.Option(
            "--cpu-time", help="By the processor's time: on a busy machine, with --in-process."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what an earlier run finished.")
    ] = False,
    out: list[Path] | None = None,
) -> Table:
    """Accuracy, upload rate, risk, bytes and speed of each strategy, on the same rows."""
    from ...common.plots import accuracy_against_rate
    from ...common.prompts import read_prompts, shipped_prompts
    from ...edge.policy.tuning import needs_calibration
    from ..network.slow_engine import paces
    from .comparison import Comparison, Journal
    from .setup import open_bench
    from .specs import parse_specs

    if in_process and config.cloud.url:
        raise UsageError("--in-process and --cloud exclude each other")
    if (pass_ms or cpu_time) and not in_process:
        raise UsageError("--pass-ms and --cpu-time are of this process: give --in-process too")
    chosen = parse_specs(specs, config.strategy)
    paced = paces(pass_ms) if pass_ms else []
    cases = read_prompts(shipped_prompts(data), limit, scored=True)
    journal = Journal(out[0].with_suffix(".units.jsonl") if out else None, fresh)

    def rows() -> Iterator[Row]:
        needed = any(spec.calls for spec in chosen)
        with open_bench(config, cases, needed, say, in_process, shadow, embeddings) as bench:
            bench = replace(bench, endpoint=endpoint)
            clock = time.process_time if cpu_time else time.perf_counter
            bench = replace(bench, paces=paced, clock=clock)
            shared = repr(
                (_about(config), in_process, shadow, embeddings, endpoint, paced, cpu_time)
            )

            def more(spec: StrategySpec) -> str:
                return shared + (_calibrations() if needs_calibration(spec.options) else "")

            every = range(seed, seed + seeds)
            comparison = Comparison(bench, chosen, cases, every, journal, more)
            with _progress(len(chosen) * len(every) * len(cases)) as advance:
                comparison.run(advance)
        if comparison.reused:
            say(f"{comparison.reused} replies are those of an earlier run (--fresh measures anew)")
        settings = _settings(config, in_process, Path(data).stem)
        yield from ({**row, **settings} for row in comparison.rows())
        if comparison.partial:
            say("interrupted: the same command goes on from here")
            raise KeyboardInterrupt

    def picture(found: Sequence[Row], folder: Path) -> Path:
        return accuracy_against_rate([plot_row(row) for row in found], folder / "strategies.png")

    return Table(rows(), None, _markdown, picture, plot)


@measurement("model", "llm", "cloud", "temperature", "top_k", "top_p", "min_p")
def uplinks(
    config: Config,
    data: Data,
    spec: Annotated[str, typer.Option("--strategy", help="NAME or NAME@PARAMETER.")] = "uhlm@0.073",
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the replies.")] = 1,
) -> Table:
    """Bytes per upload and per token of our uplink and of others, with and without HTTP."""
    from ...common.prompts import read_prompts, shipped_prompts
    from ...lm.engines.llama import LlamaEngine
    from ...models.resolve import find_model
    from ..harness.shadow_verifier import ROWS, ShadowVerifier
    from .setup import open_bench
    from .specs import parse_specs
    from .uplinks import COLUMNS as UPLINK_COLUMNS
    from .uplinks import FORMATS, Uploads, uplink_rows

    (chosen,) = parse_specs(spec, config.strategy)[:1]
    if not chosen.calls:
        raise UsageError(f"{spec} uploads nothing")
    cases = read_prompts(shipped_prompts(data), limit, scored=True)
    path = find_model(config.device.model)
    with closing(LlamaEngine(path, config.device.engine, max_rows=ROWS)) as device:
        reader = ShadowVerifier(device, config.sampler)
        uploads = Uploads(reader, config.sampler, config.chat.system)
        with open_bench(config, cases, True, say, shadow=False) as bench:
            outcomes = list(replace(bench, watch=uploads.watch).run(chosen, cases, seed))
    for name, meaning in FORMATS.items():
        say(f"{name}: {meaning}")
    about = {"strategy": spec, **config.sampler.model_dump()}
    return Table([{**row, **about} for row in uplink_rows(uploads, outcomes)], UPLINK_COLUMNS)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    from ...common.text import one_line

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeLeft())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda label, rows: progress.update(task, advance=rows, description=one_line(label))


def _settings(config: Config, in_process: bool, text: str) -> dict[str, Any]:
    """What the numbers were measured with: in every row."""
    return {
        **config.sampler.model_dump(),
        "text": text,
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


def _markdown(rows: Sequence[Row]) -> str:
    """The table with its intervals, what it means, and the published claims beside it."""
    from ...common.tables import render
    from .claims import COLUMNS as CLAIMS
    from .claims import claim_rows

    table = [{head: _cell(row, name, form) for name, head, form in COLUMNS} for row in rows]
    claims = claim_rows(rows)
    parts = [render(table, "md"), f"\n{CAPTION}\n"]
    return "".join([*parts, "\n", render(claims, "md", CLAIMS)] if claims else parts)


def _cell(row: Row, name: str, form: str) -> str:
    value = row[name]
    if not form:
        return f"{value} (partial)" if row.get("partial") else str(value)
    if value is None:
        return "-"
    spread = row.get(f"{name}_ci")
    return format(value, form) + ("" if spread is None else f" ±{format(spread, form)}")


def plot_row(row: Row) -> Row:
    """A row for the picture: one curve per strategy over its parameters, and the interval.

    What `handoff` asks for is whole replies: its rate is the share of them.
    """
    name, _, parameter = row["strategy"].partition("@")
    row = {**row, "strategy": parameter if parameter == "adaptive" else name}
    if name == "handoff":
        row["transmission_rate"] = row["calls"] / row["n"]
    if row["llm_positions"] is not None:
        row["llm_tokens"] = row["llm_positions"] / row["n"]
    spread = row["accuracy_ci"]
    if spread is None:
        return row
    low, high = row["accuracy"] - spread, row["accuracy"] + spread
    return {**row, "accuracy_low": low, "accuracy_high": high}
