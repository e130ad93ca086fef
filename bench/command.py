"""`uhlm-edge bench`: parse, measure, print. Heavy modules are imported inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.errors import UsageError
from .load.command import register as register_load
from .report.command import register as register_report
from .strategies.command import register as register_strategies

if TYPE_CHECKING:
    from ..configs.config import Config

__all__ = ["bench_app", "register"]

bench_app = typer.Typer(
    help="Measure: time, energy, uncertainty, the channel.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Profile = Annotated[str | None, typer.Option(help="Named profile (default: demo).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Config file (TOML).")]
Model = Annotated[str | None, typer.Option(help="Device model: a GGUF file or a shipped name.")]
Cloud = Annotated[str | None, typer.Option(help="URL of a verifier.")]
Shape = Annotated[
    str | None, typer.Option(help="Random weights in the shape of a real model, by its name.")
]
Form = Annotated[str, typer.Option("--output", "-o", help="md, csv, json or jsonl.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write to a file instead of stdout.")]
Plot = Annotated[Path | None, typer.Option(help="Folder for the picture (needs matplotlib).")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="What to ask; repeatable.")]


def register(app: typer.Typer) -> None:
    """Add `bench` and its commands to the application."""
    app.add_typer(bench_app, name="bench")
    register_strategies(bench_app)
    register_load(bench_app)
    register_report(bench_app)


@bench_app.command()
def latency(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Model = None,
    shape: Shape = None,
    quantisation: Annotated[str, typer.Option(help="Of --shape.")] = "Q4_K_M",
    prompts: Annotated[str, typer.Option(help="Prompt lengths.")] = "32,128,512",
    depths: Annotated[str, typer.Option(help="Context lengths before generating.")] = "0,256,768",
    generate: Annotated[int, typer.Option(help="Tokens to generate.")] = 32,
    repeats: Annotated[int, typer.Option(help="Timed repeats.")] = 5,
    threads: Annotated[str, typer.Option(help="Numbers of threads; empty: the profile's.")] = "",
    gpu_layers: Annotated[int | None, typer.Option(help="Layers on the GPU; -1 is all.")] = None,
    output: Form = "md",
    out: Out = None,
) -> None:
    """Prefill and decode rates, beside bare llama.cpp in the same run."""
    from .speed.latency import COLUMNS, Plan, measure_rates

    plan = Plan(_numbers(prompts), _numbers(depths), generate, repeats, _numbers(threads))
    loaded = _load(profile, config, {("device", "engine", "n_gpu_layers"): gpu_layers})
    path = _model_path(loaded, model, shape, quantisation)
    _collect(measure_rates(path, loaded.device.engine, plan, _progress), output, out, COLUMNS)


@bench_app.command()
def split(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Model = None,
    cloud: Cloud = None,
    strategy: Annotated[str | None, typer.Option(help="The strategy to time.")] = None,
    prompt: Prompts = None,
    output: Form = "md",
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Time to first token, and the time of each token by what the device did in it."""
    from ..edge.chat.assemble import assemble
    from .energy.workload import PROMPTS
    from .speed.split import COLUMNS, split_rows, time_tokens

    loaded = _load(
        profile,
        config,
        {
            ("device", "model"): model,
            ("cloud", "url"): cloud,
            ("strategy", "name"): strategy,
            ("chat", "seed"): 1,
        },
    )
    with assemble(loaded, _progress) as assistant:
        times = time_tokens(assistant, prompt or PROMPTS)
    rows = [{"strategy": loaded.strategy.name, **row} for row in split_rows(times)]
    _write(rows, output, out, ("strategy", *COLUMNS))
    if plot is not None:
        from ..common.plots import latency_histogram

        later = [1e3 * token.total for token in times if token.index > 0]
        _progress(str(latency_histogram(later, plot / "latency.png")))


@bench_app.command()
def energy(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Model = None,
    cloud: Cloud = None,
    strategy: Annotated[
        str | None, typer.Option(help="Strategies to measure, with commas.")
    ] = None,
    prompt: Prompts = None,
    replies: Annotated[int, typer.Option(help="How often to go through the prompts.")] = 3,
    source: Annotated[
        str | None, typer.Option(help="battery, jetson, pi5-pmic, rapl or jtop.")
    ] = None,
    idle: Annotated[float, typer.Option(help="Seconds of doing nothing, first.")] = 10.0,
    hz: Annotated[float, typer.Option(help="Samples a second, 10 or more.")] = 20.0,
    radio_up: Annotated[float, typer.Option(help="Radio model: joules per byte up.")] = 0.0,
    radio_down: Annotated[float, typer.Option(help="Radio model: joules per byte down.")] = 0.0,
    radio_active: Annotated[float, typer.Option(help="Radio model: watts while active.")] = 0.0,
    radio_tail: Annotated[float, typer.Option(help="Seconds it stays active.")] = 0.0,
    output: Form = "md",
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Joules per token and per reply above the idle baseline; "not measured" with a reason."""
    from ..edge.chat.assemble import assemble
    from .energy.measure import measure_energy
    from .energy.radio import RadioModel
    from .energy.rows import COLUMNS, bar_row, flat_row
    from .energy.workload import PROMPTS, chat_workload
    from .harness.machine import build_info, machine_info

    radio = None
    if radio_up or radio_down or radio_active:
        radio = RadioModel(radio_up, radio_down, radio_active)
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    about = {**machine_info(), **build_info()}
    for name in (strategy or "").split(",") if strategy else [None]:
        loaded = _load(
            profile,
            config,
            {
                ("device", "model"): model,
                ("cloud", "url"): cloud,
                ("strategy", "name"): name,
                ("chat", "seed"): 1,
            },
        )
        label = loaded.strategy.name
        _progress(f"{label}: {idle:g} s idle, then {replies} rounds")
        with assemble(loaded, _progress) as assistant:
            workload = chat_workload(assistant, [*(prompt or PROMPTS)] * replies, radio_tail)
            report = measure_energy(workload, source=source, idle_s=idle, hz=hz, radio=radio)
        if report.reason is not None:
            _progress(f"{label}: {report.status}: {report.reason}")
        rows.append({"strategy": label, **flat_row(report), **about})
        bars.append(bar_row(label, report))
        if report.work is not None and report.work.interrupted:
            break
    _write(rows, output, out, ("strategy", *COLUMNS))
    if plot is not None:
        from ..common.plots import energy_bars

        _progress(str(energy_bars(bars, plot / "energy.png")))


@bench_app.command()
def uncertainty(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Model = None,
    vocab: Annotated[str, typer.Option(help="Vocabulary sizes.")] = "8192,32000,151936",
    rows: Annotated[int, typer.Option(help="Rows of logits per size.")] = 20,
    output: Form = "md",
    out: Out = None,
) -> None:
    """What each way to get the uncertainty costs, over vocabulary sizes."""
    from .speed.rows import model_rows
    from .speed.uncertainty import measure

    loaded = _load(profile, config, {("device", "model"): model})
    real = model_rows(_model_path(loaded, model, None, ""), loaded.device.engine, rows)
    results = [dict(cost) for cost in measure(real, vocab_sizes=_numbers(vocab), rows=rows)]
    _write(results, output, out, None)


@bench_app.command()
def channel(
    profile: Profile = None,
    config: ConfigFile = None,
    model: Model = None,
    cloud: Cloud = None,
    costs: Annotated[Path | None, typer.Option(help="Measured costs (JSON) to use.")] = None,
    save_costs: Annotated[Path | None, typer.Option(help="Write the costs measured.")] = None,
    strategies: Annotated[str, typer.Option(help="Strategies, with commas.")] = (
        "local,cloud,hlm,uhlm,rand"
    ),
    prompt: Prompts = None,
    snr: Annotated[str, typer.Option(help="Signal-to-noise ratios, dB.")] = "0,5,10,15,20",
    bandwidth: Annotated[float, typer.Option(help="Hz.")] = 10e6,
    fading: Annotated[str, typer.Option(help="rayleigh or none.")] = "rayleigh",
    mean: Annotated[str, typer.Option(help="ergodic or block.")] = "ergodic",
    round_trip: Annotated[float, typer.Option(help="Milliseconds beyond transmission.")] = 0.0,
    vocabulary: Annotated[int, typer.Option(help="Ids, of the published upload.")] = 32_000,
    device_ms: Annotated[
        float | None, typer.Option(help="Stretch the device to this time per token.")
    ] = None,
    real: Annotated[bool, typer.Option("--real", help="A real slow link, beside the model.")] = (
        False
    ),
    link: Annotated[str, typer.Option(help="Kinds of real link to try.")] = "netem,tun,proxy",
    loss: Annotated[float, typer.Option(help="Share of packets lost (--real).")] = 0.0,
    rate: Annotated[float | None, typer.Option(help="Uplink bits per second (--real).")] = None,
    output: Form = "md",
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Throughput over SNR from measured costs, by the paper's channel; or over a real slow link."""
    from .energy.workload import PROMPTS
    from .network.channel import COLUMNS, Channel, throughput_rows
    from .network.costs import load_costs, measure_all
    from .network.costs import save_costs as save

    loaded = _load(
        profile,
        config,
        {("device", "model"): model, ("cloud", "url"): cloud, ("chat", "seed"): 1},
    )
    asked = prompt or PROMPTS
    names = tuple(strategies.split(","))
    pace = None if device_ms is None else device_ms / 1000
    known = load_costs(costs) if costs else measure_all(loaded, names, asked, _progress, pace)
    if save_costs is not None:
        save(known, save_costs)
    if real:
        from ..common.files import interruptible
        from .network.real_link import LinkSpec
        from .network.side_by_side import COLUMNS as SIDE_COLUMNS
        from .network.side_by_side import compare

        spec = LinkSpec(delay_ms=round_trip / 2, loss=loss, up_bps=rate)
        rows = compare(loaded, known, spec, link.split(","), asked, _progress, pace)
        with interruptible():  # namespaces and processes must not outlive the run
            _collect(rows, output, out, SIDE_COLUMNS)
        return
    about: dict[str, Any] = {"fading": fading, "mean": mean, "round_trip_s": round_trip / 1000}
    channels = [Channel(value, bandwidth, **about) for value in _numbers(snr, float)]
    table = throughput_rows([item.cost for item in known], channels, vocabulary)
    _write(table, output, out, COLUMNS)
    if plot is not None:
        from ..common.plots import throughput_over_snr

        _progress(str(throughput_over_snr(table, plot / "throughput.png")))


def _load(profile: str | None, config: Path | None, flags: dict[tuple[str, ...], Any]) -> Config:
    from ..configs.layers import load_config

    return load_config(flags, profile, config).config


def _model_path(config: Config, model: str | None, shape: str | None, quantisation: str) -> Path:
    from ..models.resolve import find_model

    if shape is None:
        return find_model(model or config.device.model)
    if model is not None:
        raise UsageError("--model and --shape exclude each other")
    from .speed.shapes import make_shape

    path = make_shape(shape, quantisation)
    _progress(f"{path}: random weights in the shape of {shape}; only its speed means something")
    return path


def _numbers(text: str, kind: Callable[[str], Any] = int) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers with commas") from None


def _progress(line: str) -> None:
    print(f"uhlm-edge: {line}", file=sys.stderr, flush=True)


def _collect(
    rows: Iterator[dict[str, Any]], output: str, out: Path | None, columns: Sequence[str]
) -> None:
    """Write rows as they were measured; on Ctrl-C those that are whole, marked as partial."""
    found: list[dict[str, Any]] = []
    try:
        for row in rows:
            found.append({"partial_run": False, **row})
    except KeyboardInterrupt:
        if found:
            _progress("interrupted: what follows is part of what was asked for")
            partial = [{**row, "partial_run": True} for row in found]
            _write(partial, output, out, ("partial_run", *columns))
        raise
    _write(found, output, out, columns)


def _write(
    rows: Sequence[dict[str, Any]], output: str, out: Path | None, columns: Sequence[str] | None
) -> None:
    from ..common.tables import render

    text = render(rows, output, columns)
    if out is None:
        sys.stdout.write(text)
        return
    from ..common.files import atomic_output

    with atomic_output(out) as part:
        part.write_text(text, encoding="utf-8")
