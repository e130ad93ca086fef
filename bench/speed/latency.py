"""Prefill and decode rates of a model, beside bare llama.cpp on the same model in the same run.

Rows carry llama-bench's names where they mean the same: n_prompt, n_gen, n_depth, avg_ns,
stddev_ns, avg_ts, stddev_ts, samples_ns. `runner` is "engine" (what the device runs) or "bare"
(llama.cpp's own calls, nothing read or drawn). The two take turns, so that heat and other work on
the machine meet both.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Protocol

import numpy as np

from ...common.errors import UsageError
from ...edge.device.thermal import HeatState, read_heat, throttling_between
from ...lm.engines.options import EngineOptions
from ...lm.gguf.check import check
from ..harness.machine import build_info, machine_info

COLUMNS = (
    "model_filename", "model_type", "n_threads", "runner", "n_prompt", "n_gen", "n_depth", "avg_ts",
    "stddev_ts", "median_ts", "ratio_to_bare", "n",
)  # fmt: skip
"""What the Markdown table shows."""


@dataclass(frozen=True)
class Plan:
    """What to measure: prompts of these lengths, and generation after contexts of these depths."""

    prompts: tuple[int, ...] = (32, 128, 512)
    depths: tuple[int, ...] = (0, 256, 1024)
    generate: int = 32
    repeats: int = 5
    threads: tuple[int, ...] = ()
    """Empty: as many as the engine takes by itself."""

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise UsageError("a rate needs at least 2 repeats: it is given with its spread")
        if self.generate < 1 or any(n < 1 for n in self.prompts):
            raise UsageError("prompts and generations have at least one token")
        if any(n < 0 for n in self.depths) or any(n < 1 for n in self.threads):
            raise UsageError("depths must not be negative, threads at least 1")

    @property
    def cells(self) -> int:
        """How many ids a context must hold."""
        return max([*self.prompts, *(depth + self.generate for depth in self.depths)])

    def tests(self) -> Iterator[tuple[int, int, int]]:
        """(n_prompt, n_gen, n_depth) of each test."""
        yield from ((n, 0, 0) for n in self.prompts)
        yield from ((0, self.generate, depth) for depth in self.depths)


class Runner(Protocol):
    """Something that appends ids to a context."""

    def eval(self, tokens: Sequence[int]) -> object:
        """Append ids and have the logits of the last."""
        ...

    def truncate(self, n: int) -> None:
        """Forget all ids from position `n` on."""
        ...


def measure_rates(
    path: Path,
    options: EngineOptions | None = None,
    plan: Plan | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, object]]:
    """Measure one model file, row by row. Weights are loaded once per number of threads.

    Raises:
        ModelError: the file is refused.
        UsageError: the plan does not fit the model's context.
    """
    from ...lm.engines.llama import LlamaEngine
    from ...lm.engines.llama_bare import BareContext

    options, plan = options or EngineOptions(), plan or Plan()
    header = check(path)
    machine, build = machine_info(), build_info()
    cores = machine["n_cores"]
    threads = plan.threads or (options.n_threads or min(int(str(cores)), 4),)
    for count in threads:
        mine = options.model_copy(
            update={"n_threads": count, "n_threads_batch": count, "n_ctx": plan.cells}
        )
        with closing(LlamaEngine(path, mine)) as engine:
            if engine.n_ctx < plan.cells:
                raise UsageError(
                    f"{path.name} holds {engine.n_ctx} tokens, {plan.cells} are needed"
                )
            with BareContext(path, mine, plan.cells, count) as bare:
                about: dict[str, object] = {
                    "model_filename": path.name, "model_type": bare.description,
                    "model_size": sum(tensor.n_bytes for tensor in header.tensors),
                    "model_n_params": header.parameters,
                    "random_weights": "random-weights" in path.name, "n_threads": count,
                    "n_batch": mine.n_batch, "n_gpu_layers": mine.n_gpu_layers,
                    "type_k": mine.cache_type_k, "type_v": mine.cache_type_v,
                    "backend": engine.model.backend,
                }  # fmt: skip
                runners: dict[str, Runner] = {"bare": bare, "engine": engine}
                for row in time_runners(runners, plan, len(engine.vocab), progress):
                    yield {**about, **row, **machine, **build}


def time_runners(
    runners: dict[str, Runner],
    plan: Plan,
    n_vocab: int,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], int] = time.perf_counter_ns,
    heat: Callable[[], HeatState] = read_heat,
) -> Iterator[dict[str, object]]:
    """Time each test of the plan on all runners, taking turns, after an untimed round.

    Ids are random, from the middle of the vocabulary, and the same for all runners. The garbage
    collector is off while the clock runs.
    """
    random = np.random.default_rng(0)
    for n_prompt, n_gen, n_depth in plan.tests():
        progress(f"{n_prompt or n_gen} ids {'prefill' if n_prompt else f'at depth {n_depth}'}")
        before = heat()
        context = _ids(random, n_vocab, n_depth)
        ids = _ids(random, n_vocab, n_prompt or n_gen)
        samples: dict[str, list[int]] = {name: [] for name in runners}
        for runner in runners.values():
            runner.truncate(0)
            if context:
                runner.eval(context)
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        for turn in range(plan.repeats + 1):
            for name, runner in runners.items():
                took = _time(runner, ids, n_prompt > 0, n_depth, clock)
                if turn > 0:  # the first warms caches and clock frequency up
                    samples[name].append(took)
        flags = throttling_between([before, heat()])
        rates = {name: [1e9 * len(ids) / ns for ns in taken] for name, taken in samples.items()}
        for name, taken in samples.items():
            yield {
                "runner": name, "n_prompt": n_prompt, "n_gen": n_gen, "n_depth": n_depth,
                "n": len(taken), "avg_ns": fmean(taken), "stddev_ns": stdev(taken),
                "avg_ts": fmean(rates[name]), "stddev_ts": stdev(rates[name]),
                "median_ts": median(rates[name]), "ratio_to_bare": _ratio(samples, name),
                "samples_ns": taken, "test_time": started, "flags": flags,
            }  # fmt: skip


def _ratio(samples: dict[str, list[int]], name: str) -> float | None:
    """Median over the turns of this runner's rate over the bare one's in the same turn."""
    if "bare" not in samples:
        return None
    return median(bare / taken for bare, taken in zip(samples["bare"], samples[name], strict=True))


def _time(
    runner: Runner, ids: Sequence[int], at_once: bool, depth: int, clock: Callable[[], int]
) -> int:
    runner.truncate(depth)
    was = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        if at_once:
            runner.eval(ids)
        else:
            for token in ids:
                runner.eval([token])
        return clock() - start
    finally:
        if was:
            gc.enable()


def _ids(random: np.random.Generator, n_vocab: int, n: int) -> list[int]:
    low = min(n_vocab // 4, 300)
    return [int(token) for token in random.integers(low, n_vocab, n)]
