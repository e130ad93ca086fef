"""`uhlm-edge bench energy`: joules of strategies on this device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..harness.output import Plot, Prompts, Row, Table, measurement, say

if TYPE_CHECKING:
    from ...configs.config import Config
    from .radio import RadioModel


@measurement("model", "cloud")
def energy(
    config: Config,
    strategies: Annotated[str, typer.Option(help="With commas; empty: the profile's.")] = "",
    prompt: Prompts = None,
    replies: Annotated[int, typer.Option(min=1, help="How often to go through the prompts.")] = 3,
    source: Annotated[
        str | None, typer.Option(help="battery, jetson, pi5-pmic, rapl or jtop.")
    ] = None,
    idle: Annotated[float, typer.Option(min=0, help="Seconds of doing nothing, first.")] = 10.0,
    meter: Annotated[
        Path | None,
        typer.Option(help="Readings of a meter at the plug: begun here, filled in by you."),
    ] = None,
    hz: Annotated[float, typer.Option(help="Samples a second, 10 or more.")] = 20.0,
    radio_up: Annotated[float, typer.Option(help="Radio model: joules per byte up.")] = 0.0,
    radio_down: Annotated[float, typer.Option(help="Radio model: joules per byte down.")] = 0.0,
    radio_active: Annotated[float, typer.Option(help="Radio model: watts while active.")] = 0.0,
    radio_tail: Annotated[float, typer.Option(help="Seconds it stays active.")] = 0.0,
    plot: Plot = None,
) -> Table:
    """Joules per token and per reply above the idle baseline; "not measured" with a reason."""
    from ...common.plots import energy_bars
    from ...edge.chat.assemble import assemble
    from ..harness.machine import build_info, machine_info
    from .measure import measure_energy
    from .plug_meter import evaluate, fill_form, read_form
    from .radio import RadioModel
    from .rows import COLUMNS, bar_row, flat_row
    from .workload import PROMPTS, chat_workload, seeded

    if meter is not None and meter.exists():
        row = evaluate(read_form(meter))
        return Table(iter([row]), tuple(row))

    def by_hand(file: Path) -> Iterator[Row]:
        with assemble(seeded(config, strategies or config.strategy.name), say) as assistant:
            prompts = [*(prompt or PROMPTS)] * replies
            fill_form(file, chat_workload(assistant, prompts), max(idle, 30.0), say)
        yield from ()

    if meter is not None:
        return Table(by_hand(meter), ())
    radio: RadioModel | None = None
    if radio_up or radio_down or radio_active:
        radio = RadioModel(radio_up, radio_down, radio_active)
    bars: list[dict[str, Any]] = []
    about = {**machine_info(), **build_info()}

    names = strategies.split(",") if strategies else [config.strategy.name]
    configs = [seeded(config, name) for name in names]

    def rows() -> Iterator[Row]:
        for name, mine in zip(names, configs, strict=True):
            say(f"{name}: {idle:g} s idle, then {replies} rounds")
            with assemble(mine, say) as assistant:
                workload = chat_workload(assistant, [*(prompt or PROMPTS)] * replies, radio_tail)
                report = measure_energy(workload, source=source, idle_s=idle, hz=hz, radio=radio)
            if report.reason is not None:
                say(f"{name}: {report.status}: {report.reason}")
            bars.append(bar_row(name, report))
            yield {"strategy": name, **flat_row(report), **about}
            if report.work is not None and report.work.interrupted:
                raise KeyboardInterrupt

    return Table(
        rows(),
        ("strategy", *COLUMNS),
        picture=lambda _, folder: energy_bars(bars, folder / "energy.png"),
        plot=plot,
    )
