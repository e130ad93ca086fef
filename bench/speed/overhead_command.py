"""`uhlm-edge bench overhead`: what the project's loop adds to the decoding of a token."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["overhead", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to `bench`."""
    app.command()(overhead)


def overhead(
    data: Annotated[Path | None, typer.Option(help="Rows to answer (default: shipped).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Only the first rows.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="How often to go through them.")] = 5,
    profile: Annotated[str | None, typer.Option(help="Named profile (default: demo).")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")] = None,
    model: Annotated[str | None, typer.Option(help="Device model: file or shipped name.")] = None,
    estimator: Annotated[str | None, typer.Option(help="Of u: sampled or expected.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="md, csv, json or jsonl.")] = "md",
) -> None:
    """Time per token of local and uhlm beside a bare llama.cpp loop, in the same run."""
    from ...common.tables import render
    from ...configs.layers import load_config
    from ..harness.cases import read_cases
    from ..harness.machine import machine_info
    from .overhead import COLUMNS, overhead_rows, time_replies

    flags: dict[tuple[str, ...], Any] = {
        ("device", "model"): model,
        ("strategy", "estimator"): estimator,
        ("sampler", "temperature"): temperature,
        ("sampler", "top_k"): top_k,
        ("sampler", "top_p"): top_p,
    }
    loaded = load_config(flags, profile, config).config
    cases = read_cases(data or Path(__file__).parents[2] / "common" / "data" / "tasks.jsonl", limit)
    for times in time_replies(loaded, cases, rounds):
        found = times
    about = machine_info()
    rows = [{**row, **about} for row in overhead_rows(found)]
    sys.stdout.write(render(rows, output, COLUMNS))
