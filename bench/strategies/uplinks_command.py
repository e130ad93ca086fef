"""`uhlm-edge bench uplinks`: what an upload weighs, and would weigh in other formats."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..harness.scoring import Outcome
    from .uplinks import Uploads

__all__ = ["register", "uplinks"]


def register(app: typer.Typer) -> None:
    """Add the command to `bench`."""
    app.command()(uplinks)


def uplinks(
    data: Annotated[Path, typer.Option(help="Rows to answer (JSON lines).")],
    strategy: Annotated[str, typer.Option(help="NAME or NAME@PARAMETER.")] = "uhlm@0.073",
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the replies.")] = 1,
    profile: Annotated[str | None, typer.Option(help="Named profile (default: demo).")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")] = None,
    cloud: Annotated[str | None, typer.Option(help="URL of a verifier.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    min_p: Annotated[float | None, typer.Option(help="0 is off.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="md, csv, json or jsonl.")] = "md",
) -> None:
    """Bytes per upload and per token of our uplink and of others, with and without HTTP."""
    from ...common.errors import UsageError
    from ...common.tables import render
    from ...configs.layers import load_config
    from ...lm.engines.llama import LlamaEngine
    from ...models.resolve import find_model
    from ..harness.cases import read_cases
    from ..harness.shadow_verifier import ROWS, ShadowVerifier
    from .setup import open_bench
    from .specs import parse_lineup
    from .uplinks import COLUMNS, FORMATS, Uploads

    flags: dict[tuple[str, ...], Any] = {
        ("cloud", "url"): cloud,
        ("sampler", "temperature"): temperature,
        ("sampler", "top_k"): top_k,
        ("sampler", "top_p"): top_p,
        ("sampler", "min_p"): min_p,
    }
    loaded = load_config(flags, profile, config).config
    cases = read_cases(data, limit)
    (entry,) = parse_lineup(strategy, loaded.strategy)[:1]
    if not entry.calls:
        raise UsageError(f"{strategy} uploads nothing")
    device = LlamaEngine(find_model(loaded.device.model), loaded.device.engine, max_rows=ROWS)
    try:
        looker = ShadowVerifier(device, loaded.sampler)
        uploads = Uploads(looker, loaded.sampler, loaded.chat.system)
        with open_bench(loaded, cases, True, _say, shadow=False) as bench:
            outcomes = list(replace(bench, watch=uploads.watch).run(entry, cases, seed))
    finally:
        device.close()
    rows = _rows(uploads, outcomes)
    about = {"strategy": strategy, **loaded.sampler.model_dump()}
    sys.stdout.write(render([{**row, **about} for row in rows], output, COLUMNS))
    for name, meaning in FORMATS.items():
        _say(f"{name}: {meaning}")


def _rows(uploads: Uploads, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    from .uplinks import uplink_rows

    heads = [
        whole - body
        for outcome in outcomes
        for whole, body in zip(outcome.requests or (), outcome.bodies, strict=True)
    ]
    return uplink_rows(uploads, outcomes, round(sum(heads) / len(heads)) if heads else None)


def _say(line: str) -> None:
    print(f"uhlm-edge: {line}", file=sys.stderr, flush=True)
