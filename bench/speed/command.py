"""`uhlm-edge bench latency`, `split`, `turns` and others of one device: how long things take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ...common.errors import UsageError
from ..harness.output import Data, Limit, Plot, Prompts, Table, measurement, numbers, say

if TYPE_CHECKING:
    from ...configs.config import Config

_SHORT = 60  # characters of a question


@measurement("model", "gpu_layers")
def latency(
    config: Config,
    shape: Annotated[
        str | None, typer.Option(help="Random numbers in the shape of a real model, by its name.")
    ] = None,
    quantisation: Annotated[str, typer.Option(help="Of --shape.")] = "Q4_K_M",
    prompts: Annotated[str, typer.Option(help="Prompt lengths.")] = "32,128,512",
    depths: Annotated[str, typer.Option(help="Context lengths before generating.")] = "0,256,768",
    generate: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 32,
    repeats: Annotated[
        int, typer.Option(min=2, help="Timed repeats; a spread needs at least 2.")
    ] = 5,
    threads: Annotated[str, typer.Option(help="Numbers of threads; empty: the profile's.")] = "",
) -> Table:
    """Prefill and decode rates, beside bare llama.cpp in the same run."""
    from ...models.resolve import find_model
    from .latency import COLUMNS, Plan, measure_rates
    from .shapes import make_shape

    lengths = numbers("--prompts", prompts)
    before = numbers("--depths", depths) if depths else ()
    counts = numbers("--threads", threads) if threads else ()
    plan = Plan(lengths, before, generate, repeats, counts)
    if shape is None:
        path = find_model(config.device.model)
    elif config.device.model != type(config.device)().model:
        raise UsageError("--model and --shape exclude each other")
    else:
        path = make_shape(shape, quantisation)
        say(f"{path}: random numbers in the shape of {shape}; only its speed means something")
    return Table(measure_rates(path, config.device.engine, plan, say), COLUMNS)


@measurement("model", "cloud", "strategy", "pipelined")
def split(config: Config, prompt: Prompts = None, plot: Plot = None) -> Table:
    """Time to first token, and the time of each token by what the device did in it."""
    from ...common.plots import latency_histogram
    from ...edge.chat.assemble import assemble
    from ..energy.workload import PROMPTS, seeded
    from .split import COLUMNS, split_rows, time_tokens

    with assemble(seeded(config), say) as assistant:
        times = time_tokens(assistant, prompt or PROMPTS)
    later = [1e3 * token.total for token in times if token.index > 0]
    return Table(
        [{"strategy": config.strategy.name, **row} for row in split_rows(times)],
        ("strategy", *COLUMNS),
        picture=lambda _, folder: latency_histogram(later, folder / "latency.png"),
        plot=plot,
    )


@measurement("model", "cloud", "strategy", "threads")
def turns(
    config: Config,
    turns: Annotated[int, typer.Option(min=8, help="Of the conversation.")] = 200,
    context: Annotated[int, typer.Option(min=256, help="Tokens of the device's context.")] = 1024,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")] = 24,
    slide: Annotated[
        str, typer.Option(help="Who keeps its work when old turns go: none, device, both.")
    ] = "device",
    repeats: Annotated[int, typer.Option(min=1, help="Runs; each turn's least counts.")] = 3,
) -> Table:
    """First token of every turn in a chat that outgrows the context: the slowest and the median."""
    from ...common.prompts import read_prompts, shipped_prompts
    from ...configs.layers import changed
    from ...edge.chat.assemble import assemble
    from ..energy.workload import seeded
    from .conversation import TURN_COLUMNS, time_turns, turn_row

    config = changed(
        seeded(config), {("device", "engine", "n_ctx"): context, ("chat", "max_tokens"): max_tokens}
    )
    said = (case.messages[-1]["content"] for case in read_prompts(shipped_prompts("tasks")))
    # A question takes time by its length: they are about as long, so that the chat is measured.
    texts = [text for text in said if len(text) <= _SHORT][:turns]
    rows = []
    for kind in slide.split(","):
        runs = []
        for repeat in range(repeats):
            say(f"slide = {kind}: {repeat + 1} of {repeats}")
            with assemble(changed(config, {("device", "slide"): kind}), say) as assistant:
                runs.append(time_turns(assistant, texts, turns))
        rows.append(turn_row(kind, runs))
    return Table(rows, TURN_COLUMNS)


@measurement("model", "threads")
def restart(
    config: Config,
    tokens: Annotated[int, typer.Option(min=64, help="Of the conversation.")] = 1000,
    repeats: Annotated[int, typer.Option(min=2, help="Starts with and without the cache.")] = 7,
) -> Table:
    """How soon the first token comes after a restart, with and without the prompt cache."""
    from ...common.prompts import read_prompts, shipped_prompts
    from .conversation import RESTART_COLUMNS, restart_rows

    cases = read_prompts(shipped_prompts("dialogues"))
    text = "\n".join(message["content"] for case in cases for message in case.messages)
    return Table(restart_rows(config, text, tokens, repeats, say), RESTART_COLUMNS)


@measurement("model")
def uncertainty(
    config: Config,
    vocab: Annotated[str, typer.Option(help="Vocabulary sizes.")] = "8192,32000,151936",
    rows: Annotated[int, typer.Option(min=1, help="Rows of logits per size.")] = 20,
) -> Table:
    """What each way to get the uncertainty costs, over vocabulary sizes."""
    from ...models.resolve import find_model
    from .rows import model_rows
    from .uncertainty import measure

    sizes = numbers("--vocab", vocab)
    real = model_rows(find_model(config.device.model), config.device.engine, rows)
    return Table(dict(cost) for cost in measure(real, vocab_sizes=sizes, rows=rows))


@measurement("model", "estimator", "temperature", "top_k", "top_p")
def overhead(
    config: Config,
    data: Data = "tasks",
    limit: Limit = 12,
    rounds: Annotated[int, typer.Option(min=1, help="How often to go through them.")] = 5,
) -> Table:
    """Time per token of local and uhlm beside a bare llama.cpp loop, in the same run."""
    from ...common.prompts import read_prompts, shipped_prompts
    from ..harness.machine import machine_info
    from .overhead import COLUMNS, overhead_rows, time_replies

    for times in time_replies(config, read_prompts(shipped_prompts(data), limit), rounds):
        found = times
    about = machine_info()
    return Table([{**row, **about} for row in overhead_rows(found)], COLUMNS)


@measurement("model", "cloud", "estimator", "temperature", "top_k", "top_p", "threads")
def serve(
    config: Config,
    strategies: Annotated[str, typer.Option(help="Names, with commas.")] = "local,uhlm,cloud",
    data: Data = "tasks",
    limit: Limit = 12,
    rounds: Annotated[int, typer.Option(min=1, help="How often to go through them.")] = 5,
) -> Table:
    """What a token costs more from `serve` than from `run`, as a stream and whole."""
    from ...common.prompts import read_prompts, shipped_prompts
    from ..harness.machine import machine_info
    from .serving import COLUMNS, serving_rows, time_serving

    cases = read_prompts(shipped_prompts(data), limit)
    about = machine_info()
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    found = time_serving(config, cases, names, rounds)
    rows = ({**row, **about} for name, times in found for row in serving_rows(name, times))
    return Table(rows, COLUMNS)
