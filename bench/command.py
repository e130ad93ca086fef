"""`uhlm-edge bench`: the commands of its rooms."""

from __future__ import annotations

import typer

from .energy.command import energy
from .load.command import load
from .network.command import channel, map_strategies
from .report.command import report
from .speed.command import latency, overhead, restart, serve, split, turns, uncertainty
from .strategies.command import strategies, uplinks

bench_app = typer.Typer(
    help="Measure: time, energy, uncertainty, the channel, load.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for _command in (
    latency, split, turns, restart, uncertainty, overhead, serve, strategies, uplinks, channel,
):  # fmt: skip
    bench_app.command()(_command)
bench_app.command("map")(map_strategies)
for _command in (energy, load, report):
    bench_app.command()(_command)
