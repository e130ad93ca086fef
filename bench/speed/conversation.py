"""How soon the first token comes in a long chat, and after a restart."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...common.errors import UsageError
from ...configs.config import Config
from ...edge.chat.assemble import make_device
from ...edge.chat.assistant import Assistant
from ...edge.decode.drafter import Device
from ...edge.events import Token

TURN_COLUMNS = (
    "slide", "turns", "left_out", "first_ms_p50", "first_ms_max", "first_max_over_p50",
    "cpu_ms_p50", "cpu_ms_max", "cpu_max_over_p50", "mib_quarter", "mib_end",
)  # fmt: skip
RESTART_COLUMNS = (
    "model", "prompt_cache", "n_prompt", "repeats", "first_ms_min", "first_ms_p50",
    "sooner_min", "sooner_p50", "same_ids",
)  # fmt: skip

_NEXT = 16  # ids that are compared


def time_turns(assistant: Assistant, prompts: Sequence[str], turns: int) -> list[dict[str, float]]:
    """One conversation: of each turn, milliseconds to the first token, and memory after it.

    `cpu_ms` is processor time of the device's process: what else runs does not lengthen it.
    """
    import psutil

    process, found = psutil.Process(), []
    for turn in range(turns):
        begun, worked = time.perf_counter(), time.process_time()
        events = assistant.reply(prompts[turn % len(prompts)])
        next(event for event in events if isinstance(event, Token))
        took, work = time.perf_counter() - begun, time.process_time() - worked
        for _ in events:
            pass
        loop = assistant.loop
        found.append(
            {
                "first_ms": 1e3 * took,
                "cpu_ms": 1e3 * work,
                "n_prompt": 0 if loop is None else loop.text.origin,
                "mib": process.memory_info().rss / 2**20,
            }
        )
    return found


def turn_row(slide: str, runs: Sequence[Sequence[dict[str, float]]]) -> dict[str, object]:
    """A conversation in one row: the slowest first token beside the median.

    Of a turn the least time of all runs counts: what others did on the machine is not the chat's.
    """
    times = runs[0]
    lengths = [turn["n_prompt"] for turn in times]
    shorter = sum(b < a for a, b in pairwise(lengths))
    row: dict[str, object] = {"slide": slide, "turns": len(times), "left_out": shorter}
    for name in ("first", "cpu"):
        values = np.array([[turn[f"{name}_ms"] for turn in run] for run in runs]).min(axis=0)
        median, most = float(np.median(values)), float(values.max())
        row |= {f"{name}_ms_p50": median, f"{name}_ms_max": most}
        row[f"{name}_max_over_p50"] = most / median
    return row | {"mib_quarter": times[len(times) // 4]["mib"], "mib_end": times[-1]["mib"]}


def restart_rows(
    config: Config,
    text: str,
    n_prompt: int,
    repeats: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, object]]:
    """The time to the first row of logits after a start, without and with a prompt cache, in turns.

    The model is loaded before the clock runs. The cache is the device's own, in a new folder.

    Raises:
        UsageError: the text is too short, or the context too small.
    """
    cached = config.device.model_copy(update={"prompt_cache_mb": 1 << 16})
    config = config.model_copy(update={"device": cached})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        device = make_device(config, folder)
        with closing(device.cache.engine):
            ids = device.vocab.tokenize(text)[:n_prompt]
            if len(ids) < n_prompt or n_prompt + _NEXT > device.cache.engine.n_ctx:
                raise UsageError(
                    f"{n_prompt} tokens are more than the text ({len(ids)}) or the context "
                    f"({device.cache.engine.n_ctx}) has"
                )
            _first(device, ids)
        times: dict[bool, list[float]] = {False: [], True: []}
        said: set[tuple[int, ...]] = set()
        for turn in range(repeats):
            progress(f"restart {turn + 1} of {repeats}")
            for kept in times:
                device = make_device(config, folder if kept else None)
                with closing(device.cache.engine):
                    times[kept].append(_first(device, ids))
                    said.add(_next(device))
    low = {kept: min(values) for kept, values in times.items()}
    middle = {kept: float(np.median(values)) for kept, values in times.items()}
    for kept in times:
        yield {
            "model": Path(config.device.model).name, "prompt_cache": kept, "n_prompt": n_prompt,
            "repeats": repeats, "first_ms_min": 1e3 * low[kept], "first_ms_p50": 1e3 * middle[kept],
            "sooner_min": low[False] / low[kept], "sooner_p50": middle[False] / middle[kept],
            "same_ids": len(said) == 1,
        }  # fmt: skip


def _first(device: Device, ids: list[int]) -> float:
    """Seconds to the row after `ids`."""
    begun = time.perf_counter()
    device.cache.restart(ids)
    device.cache.row()
    return time.perf_counter() - begun


def _next(device: Device) -> tuple[int, ...]:
    """The likeliest ids from here on."""
    found = []
    for _ in range(_NEXT):
        found.append(int(device.cache.row().argmax()))
        device.cache.append(found[-1])
    return tuple(found)
