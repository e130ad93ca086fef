"""What the project adds to the decoding of a token: its loop beside a bare one, in the same run.

The bare loop decodes the same ids with llama.cpp and takes the argmax of each row: what a chat with
nothing around it does. `local` adds sampling and settling; `uhlm` at threshold 1 adds the
uncertainty and the policy, and uploads nothing. All take turns, reply by reply.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from ...common.prompts import Case
from ...configs.config import Config
from ...edge.cache import TokenCache
from ...edge.chat.assemble import make_device
from ...edge.decode.drafter import Device
from ...edge.decode.loop import ReplyLoop
from ...edge.link.protocol import NoLink
from ...edge.link.session import Prompt, Session
from ...edge.policy.strategy import Strategy, make_strategy
from ...lm.chat import ChatEncoder
from ...lm.draws import turn_seed
from ...lm.engines.llama_bare import BareContext
from ...models.resolve import find_model

COLUMNS = (
    "loop", "clock", "p5_us", "p25_us", "p50_us", "over_bare_p5_us", "over_bare_p25_us",
    "over_bare_p50_us", "tokens",
)  # fmt: skip

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""On a busy machine the wall clock counts others' work; the thread's own time does not."""

Times = dict[tuple[str, str], list[float]]
"""Seconds of each token after the first of its reply, by loop and clock."""

SHARES = (5, 25, 50)
LONGEST = 64


def time_replies(config: Config, cases: Sequence[Case], rounds: int = 3) -> Iterator[Times]:
    """Answer each row with each loop by each clock; yields all times so far after every row.

    Only tokens after the first count: the prompt does not.
    """
    device = make_device(config)
    chat = ChatEncoder(device.vocab)
    threads = config.device.engine.n_threads or 1
    path = find_model(config.device.model)
    loops: dict[str, Strategy] = {
        "local": make_strategy("local"),
        "uhlm@1": make_strategy("uhlm", threshold=1.0),
    }
    times: Times = {}
    engine = device.cache.engine
    with closing(engine), BareContext(path, config.device.engine, engine.n_ctx, threads) as bare:
        for turn in range(-1, rounds * len(cases)):  # the first turn warms up
            ids = chat.encode(cases[turn % len(cases)].messages)
            prompt = Prompt(ids, None, turn_seed(1, max(0, turn)), LONGEST)
            for name, clock in CLOCKS.items():
                found: dict[str, list[float]] = {}
                reply: list[int] = []
                for loop, strategy in loops.items():
                    engine.truncate(0)
                    fresh = replace(device, cache=TokenCache(engine))
                    found[loop], reply = _reply(fresh, strategy, prompt, clock)
                found["bare"] = _bare(bare, ids, reply, clock)
                if turn >= 0:
                    for loop, seconds in found.items():
                        times.setdefault((loop, name), []).extend(seconds)
            if turn >= 0:
                yield times


def _reply(
    device: Device, strategy: Strategy, prompt: Prompt, clock: Callable[[], float]
) -> tuple[list[float], list[int]]:
    """Seconds of each token after the first, and the ids."""
    session = Session(None if strategy.name == "local" else NoLink(), device.vocab)
    loop = ReplyLoop(device, session, strategy, prompt, pipelined=False, clock=clock)
    ends = [clock() for _ in loop.events()]
    assert not loop.stats.uploads  # noqa: S101 - at threshold 1 nothing is asked about
    gaps: list[float] = np.diff(ends).tolist()
    return gaps, [token.id for token in loop.tokens]


def _bare(
    bare: BareContext, prompt: list[int], reply: list[int], clock: Callable[[], float]
) -> list[float]:
    """The same for the bare loop over the same ids."""
    bare.truncate(0)
    bare.eval(prompt)
    ends = [clock()]
    for token in reply[:-1]:
        bare.eval([token])
        bare.best()
        ends.append(clock())
    gaps: list[float] = np.diff(ends).tolist()
    return gaps


def overhead_rows(times: Times) -> list[dict[str, Any]]:
    """Rows per loop and clock: microseconds per token, and how much more than the bare loop.

    Percentiles over tokens. A token takes far less than a time slice, so on a busy machine the
    lower ones are tokens that nobody interrupted.
    """
    rows: list[dict[str, Any]] = []
    for (name, clock), seconds in sorted(times.items(), key=lambda item: item[0][::-1]):
        row: dict[str, Any] = {"loop": name, "clock": clock}
        for share in SHARES:
            row[f"p{share}_us"] = 1e6 * float(np.percentile(seconds, share))
            bare = 1e6 * float(np.percentile(times["bare", clock], share))
            over = None if name == "bare" else row[f"p{share}_us"] - bare
            row[f"over_bare_p{share}_us"] = over
        rows.append({**row, "tokens": len(seconds)})
    return rows
