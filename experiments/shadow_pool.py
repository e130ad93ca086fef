"""The shadow run of a calibration on many cores.

`python -m uhlm_edge.experiments.shadow_pool PROMPTS OUT --replies 10 --jobs 14` writes a line for
each reply, in the order of `uhlm-edge calibrate` and with its seeds. The pair is the demo pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from ..calibrate.shadow import Replay, Setting, shadow_run
from ..common.prompts import read_prompts, shipped_prompts
from ..lm.engines.llama import LlamaEngine
from ..lm.engines.options import EngineOptions
from ..lm.sampling import Sampler
from ..models.shipped import path_of

_PART = 60  # replies that a process makes before it takes the next


def shadow_pool(prompts: Path, setting: Setting, jobs: int = 1) -> Iterator[Replay]:
    """All replies of a shadow run of the demo pair, made by `jobs` processes of two models each."""
    total = len(read_prompts(prompts)) * setting.replies
    parts = [(prompts, setting, begin) for begin in range(0, total, _PART)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for lines in pool.map(_part, parts):
            yield from map(Replay.from_json, lines)


def _part(task: tuple[Path, Setting, int]) -> list[str]:
    prompts, setting, begin = task
    options = EngineOptions(n_threads=1, n_threads_batch=1)
    with (
        closing(LlamaEngine(path_of("demo-slm"), options)) as device,
        closing(LlamaEngine(path_of("demo-llm"), options, max_rows=setting.max_tokens)) as cloud,
    ):
        made = shadow_run(device, cloud, read_prompts(prompts), setting, begin)
        return [replay.to_json() for replay in islice(made, _PART)]


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", help="A file, or the name of shipped prompts.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--replies", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    sampler = Sampler(temperature=1.0, top_k=0, top_p=1.0)
    setting = Setting(sampler, seed=args.seed, replies=args.replies)
    with args.out.open("w", encoding="utf-8") as file:
        for replay in shadow_pool(shipped_prompts(args.prompts), setting, args.jobs):
            file.write(replay.to_json() + "\n")


if __name__ == "__main__":
    _main()
