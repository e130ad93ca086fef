"""`uhlm-edge bench channel|map`: throughput over a channel, modelled or real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..harness.output import Plot, Prompts, Table, measurement, numbers, say

if TYPE_CHECKING:
    from ...configs.config import Config


@measurement("model", "cloud", "llm", "temperature", "top_k", "top_p")
def channel(
    config: Config,
    costs: Annotated[Path | None, typer.Option(help="Measured costs (JSON) to use.")] = None,
    save_costs: Annotated[Path | None, typer.Option(help="Write the costs measured.")] = None,
    strategies: Annotated[str, typer.Option(help="Strategies, with commas.")] = (
        "local,cloud,hlm,uhlm,rand,spec"
    ),
    prompt: Prompts = None,
    data: Annotated[
        str | None, typer.Option(help="Prompts: JSON lines, or a shipped name.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Of --data, the first rows.")] = 12,
    snr: Annotated[str, typer.Option(help="Signal-to-noise ratios, dB.")] = "0,5,10,15,20",
    bandwidth: Annotated[float, typer.Option(help="Hz.")] = 10e6,
    fading: Annotated[str, typer.Option(help="rayleigh or none.")] = "rayleigh",
    mean: Annotated[str, typer.Option(help="ergodic or block.")] = "ergodic",
    round_trip: Annotated[float, typer.Option(help="Milliseconds beyond transmission.")] = 0.0,
    vocabulary: Annotated[int, typer.Option(help="Ids, of the published upload.")] = 32_000,
    device_ms: Annotated[
        float | None, typer.Option(help="Slow the device down to this time per token.")
    ] = None,
    real: Annotated[bool, typer.Option("--real", help="A real slow link, beside the model.")] = (
        False
    ),
    link: Annotated[str, typer.Option(help="Kinds of real link to try.")] = "netem,proxy",
    loss: Annotated[float, typer.Option(help="Share of packets lost (--real).")] = 0.0,
    rate: Annotated[float | None, typer.Option(help="Uplink bits per second (--real).")] = None,
    plot: Plot = None,
) -> Table:
    """Throughput over SNR from measured costs, on a modelled uplink; or over a real slow link."""
    from ...common.plots import throughput_over_snr
    from ...common.prompts import asked, read_prompts, shipped_prompts
    from ..energy.workload import PROMPTS, seeded
    from .channel import COLUMNS, Channel, throughput_rows
    from .costs import load_costs, measure_all
    from .costs import save_costs as save
    from .link_spec import LinkSpec
    from .side_by_side import COLUMNS as SIDE_COLUMNS
    from .side_by_side import compare

    about: dict[str, Any] = {"fading": fading, "mean": mean, "round_trip_s": round_trip / 1000}
    ratios = numbers("--snr", snr, float)
    channels = [Channel(value, bandwidth, **about) for value in ratios]
    config = seeded(config)
    messages = asked(prompt or PROMPTS)
    if data is not None:
        messages = [list(p.messages) for p in read_prompts(shipped_prompts(data), limit)]
    slow = None if device_ms is None else device_ms / 1000
    names = tuple(strategies.split(","))
    known = load_costs(costs) if costs else measure_all(config, names, messages, say, slow)
    if save_costs is not None:
        save(known, save_costs)
    if real:
        spec = LinkSpec(delay_ms=round_trip / 2, loss=loss, up_bps=rate)
        return Table(
            compare(config, known, spec, link.split(","), messages, say, slow), SIDE_COLUMNS
        )
    return Table(
        throughput_rows([item.cost for item in known], channels, vocabulary),
        COLUMNS,
        picture=lambda rows, folder: throughput_over_snr(rows, folder / "throughput.png"),
        plot=plot,
    )


@measurement("model", "cloud", "llm", "temperature", "top_k", "top_p")
def map_strategies(
    config: Config,
    costs: Annotated[
        Path | None, typer.Option(help="Measured costs (channel --save-costs) to use.")
    ] = None,
    data: Annotated[
        str, typer.Option(help="Prompts to measure with: JSON lines, or a shipped name.")
    ] = "tasks-eval",
    limit: Annotated[int, typer.Option(min=1, help="The first of them.")] = 12,
    strategies: Annotated[str, typer.Option(help="Strategies, with commas.")] = (
        "local,cloud,hlm,uhlm,spec"
    ),
    device_ms: Annotated[
        str, typer.Option(help="Device times per token beside this device's own.")
    ] = "1,5,20,50,100",
    round_trips: Annotated[str, typer.Option(help="Milliseconds.")] = "0,10,50,100,200",
    round_trip: Annotated[float, typer.Option(help="Of your link, for the sentence.")] = 50.0,
    llm_ms: Annotated[
        float | None, typer.Option(help="One pass of the LLM (default: as measured).")
    ] = None,
    plot: Plot = None,
) -> Table:
    """Which strategy is fastest, asks least and sends least, over round trip and device speed."""
    from ...common.prompts import read_prompts, shipped_prompts
    from ..energy.workload import seeded
    from .costs import load_costs, measure_all
    from .map import COLUMNS, draw_map, map_rows, sentence

    times = numbers("--device-ms", device_ms, float)
    trips = numbers("--round-trips", round_trips, float)
    if costs is None:
        cases = read_prompts(shipped_prompts(data), limit)
        asked = [list(case.messages) for case in cases]
        known = measure_all(seeded(config), strategies.split(","), asked, say)
    else:
        known = load_costs(costs)
    found = [item.cost for item in known]
    own = next((c.device_ms_per_token for c in found if c.strategy == "local"), 1.0)
    (here,) = map_rows(found, [own], [round_trip], llm_ms)
    say(sentence(here))
    rows = map_rows(found, sorted({own, *times}), trips, llm_ms)
    return Table(rows, COLUMNS, picture=lambda rows, to: draw_map(rows, to / "map.png"), plot=plot)
