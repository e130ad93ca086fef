"""`uhlm-edge bench load`: how many devices a verifier serves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from ...common.errors import UsageError
from ...common.listen import is_loopback
from ..harness.output import Plot, Table, measurement, numbers, say

if TYPE_CHECKING:
    from ...configs.config import Config
    from ...lm.engines.options import EngineOptions

_MOST_SEQUENCES, _MOST_SESSIONS = 256, 248  # of a llama.cpp context; of them, without prefixes


@measurement("cloud")
def load(
    config: Config,
    devices: Annotated[str, typer.Option(help="How many devices; several with commas.")] = "8",
    duration: Annotated[float, typer.Option(help="Measured seconds for each number.")] = 10.0,
    tokens_per_s: Annotated[
        float | None,
        typer.Option(help="Of each device; 0: no pauses; unset: as fast as it was recorded."),
    ] = None,
    upload_rate: Annotated[float, typer.Option(help="Share of tokens uploaded.")] = 0.1,
    drafts: Annotated[
        int, typer.Option(help="Drafts in a call; with more than 1 every token is uploaded.")
    ] = 1,
    prefills_per_s: Annotated[float, typer.Option(help="Long prefills beside the calls.")] = 0.0,
    prefill_ids: Annotated[int, typer.Option(help="Ids of such a prefill.")] = 990,
    deadline: Annotated[float, typer.Option(help="Seconds for a call, tries included.")] = 10.0,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference", help="Also one bare batched context of that shape, before and after."
        ),
    ] = False,
    processes: Annotated[
        int, typer.Option(help="Of this tool; 0: by devices and cores.", min=0)
    ] = 0,
    sessions: Annotated[
        int | None, typer.Option(help="Conversations that its own verifier holds; unset: all.")
    ] = None,
    traffic: Annotated[
        Literal["own", "demo"],
        typer.Option(
            help="Whose replies are played: the configured models', or the demo pair's, against "
            "any model with as many ids."
        ),
    ] = "own",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="A verifier on another machine, which is yours.")
    ] = False,
    plot: Plot = None,
) -> Table:
    """Play many devices with recorded traffic against a verifier; rates, latencies, errors."""
    from dataclasses import replace

    from ...common.machine import read_machine
    from ...edge.link.http import HttpLink
    from ...edge.link.protocol import Deadline
    from ..harness.machine import build_info, machine_info
    from .picture import load_over_devices
    from .plan import Load, Plan
    from .row import COLUMNS
    from .run import run_load
    from .trace import device_rate, fits, record

    chat = config.chat.model_copy(update={"seed": 1, "max_tokens": 96})
    counts = numbers("--devices", devices)
    most = max(config.verifier.sessions, min(max(counts), _MOST_SESSIONS))
    held = most if sessions is None else sessions
    own: dict[str, Any] = {"engine": _fitted(config)}
    own |= {"sessions": held, "sessions_per_key": held}  # all devices of a test share one key
    verifier = config.verifier.model_copy(update=own)
    loaded = config.model_copy(update={"chat": chat, "verifier": verifier})
    check_address(loaded.cloud.url, allow_remote)
    plans = [
        Plan(n, duration, tokens_per_s or 0.0, upload_rate, drafts, prefills_per_s, prefill_ids,
             deadline)
        for n in counts
    ]  # fmt: skip
    for plan in plans:
        plan.check()
    shapes = [(plan.devices, plan.drafts) for plan in plans if plan.devices <= _MOST_SEQUENCES]
    rows = _references(loaded, shapes, "before") if reference else []
    about = {**machine_info(), **build_info(), "traffic": traffic}
    traces = []
    if traffic == "demo":
        demo = _with_demo_pair(loaded)
        with _verifier(demo) as (url, key, _):
            traces = record(demo, HttpLink(url, key), say)
    with _verifier(loaded) as (url, key, pid):
        link = HttpLink(url, key, loaded.cloud.connect_timeout, loaded.cloud.ca_file)
        traces = traces or record(loaded, link, say)
        info = link.info(Deadline(loaded.cloud.deadline))
        if not fits(traces, info.fingerprint[0]):
            raise UsageError(f"{info.model} has fewer ids than the demo pair: give --traffic own")
        rate = device_rate(traces)
        say(f"recorded {len(traces)} replies, {rate:.0f} tokens/s on the device alone")
        for plan in plans:
            paced = plan if tokens_per_s is not None else replace(plan, tokens_per_s=rate)
            say(f"{plan.devices} devices for {duration:g} s")
            n = processes or max(1, min(plan.devices // 4, read_machine().cores // 4))
            row = run_load(Load(paced, traces, url, key, info, pid), n)
            rows.append({**row, "model": info.model, "load_1m": os.getloadavg()[0], **about})
    if reference:
        rows += _references(loaded, shapes, "after")
        _compare(rows)
    return Table(
        rows,
        ("reference", "of_bare", "read_of_bare", *COLUMNS) if reference else COLUMNS,
        picture=lambda rows, folder: load_over_devices(rows, folder / "load.png"),
        plot=plot,
    )


def _with_demo_pair(config: Config) -> Config:
    """The shipped pair in place of the configured models, on this machine."""
    return config.model_copy(
        update={
            "device": config.device.model_copy(update={"model": "demo-slm", "runtime": "llama"}),
            "verifier": config.verifier.model_copy(
                update={"model": "demo-llm", "runtime": "llama"}
            ),
            "cloud": config.cloud.model_copy(update={"url": None}),
        }
    )


def check_address(url: str | None, allowed: bool) -> None:
    """Load goes to this machine, or to one that the user vouches for.

    Raises:
        UsageError: another machine, and no `--allow-remote`.
    """
    host = urlsplit(url).hostname if url else "localhost"
    if not (allowed or is_loopback(host or "")):
        raise UsageError(
            f"{host} is another machine: a load test can take a verifier down for others; give "
            "--allow-remote if it is yours"
        )


@contextmanager
def _verifier(config: Config) -> Iterator[tuple[str, str | None, int | None]]:
    """URL, key and process of the verifier: the one that is named, or one of our own."""
    from ...configs.layers import as_environment
    from ...edge.chat.assemble import api_key
    from ...edge.chat.demo import DemoVerifier

    if config.cloud.url is not None:
        yield config.cloud.url.rstrip("/"), api_key(config, os.environ), None
        return
    with DemoVerifier(settings=as_environment(config, "verifier")) as verifier:
        yield verifier.url, verifier.key, verifier.pid


def _fitted(config: Config) -> EngineOptions:
    """The same threads for the verifier and for the bare context beside it."""
    from ...common.machine import read_machine
    from ...lm.engines.fit import fit
    from ...lm.gguf.check import check
    from ...models.resolve import find_model

    engine = config.verifier.engine
    if config.cloud.url is not None:
        return engine
    fitted = fit(engine, check(find_model(config.verifier.model)), read_machine())
    threads = {name: getattr(fitted, name) for name in ("n_threads", "n_threads_batch")}
    return engine.model_copy(update=threads)


def _references(config: Config, shapes: list[tuple[int, int]], when: str) -> list[dict[str, Any]]:
    from ...models.resolve import find_model
    from .reference import batched_rates

    say(f"bare batched context, {', '.join(f'{n} x {drafts}' for n, drafts in shapes)}")
    path = find_model(config.verifier.model)
    rows = batched_rates(path, config.verifier.engine, shapes)
    return [{**row, "reference": f"{row['reference']}, {when}"} for row in rows]


def _compare(rows: list[dict[str, Any]]) -> None:
    """The share of the bare context of the same shape: drafts judged a second, and ids read.

    The bare context reads nothing but drafts; the devices bring prompts too.
    """
    for row in rows:
        shape = row["devices"], row.get("plan_drafts")
        bare = [
            other["tokens_per_s"]
            for other in rows
            if "reference" in other and (other["devices"], other["drafts"]) == shape
        ]
        if bare:
            mean = sum(bare) / len(bare)
            row["of_bare"] = row["drafts_per_s"] / mean
            row["read_of_bare"] = row["positions_per_s"] and row["positions_per_s"] / mean
