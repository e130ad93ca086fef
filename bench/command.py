"""`uhlm-edge bench`: the commands of its rooms."""

from __future__ import annotations

import typer

from .energy.command import register as register_energy
from .load.command import register as register_load
from .network.command import register as register_network
from .report.command import register as register_report
from .speed.command import register as register_speed
from .strategies.command import register as register_strategies

bench_app = typer.Typer(
    help="Measure: time, energy, uncertainty, the channel, load.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

for _add in (
    register_speed, register_strategies, register_network, register_energy, register_load,
    register_report,
):  # fmt: skip
    _add(bench_app)


def register(app: typer.Typer) -> None:
    """Add `bench` and its commands to the application."""
    app.add_typer(bench_app, name="bench")
