"""What a pass costs with and without flash attention, by how much was read before.

`python -m uhlm_edge.experiments.flash_attention demo-slm` (or a GGUF file), processor milliseconds
on one thread, the least of some passes in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..lm.engines.llama import LlamaContext, LlamaEngine
from ..lm.engines.llama_model import LlamaModel
from ..lm.engines.options import EngineOptions
from ..lm.engines.protocol import Work
from ..models.resolve import find_model

OPTIONS = {
    kind: EngineOptions(n_ctx=1024, n_threads=1, n_threads_batch=1, flash_attention=kind)
    for kind in ("on", "off")
}
IDS = [10 + i % 500 for i in range(1000)]
SESSIONS = 16


def least(passes: Mapping[str, Callable[[], None]], repeats: int) -> str:
    """Run them in turns; a cell for each, and how many times as long the first takes."""
    times: dict[str, list[float]] = {kind: [] for kind in passes}
    for _ in range(repeats):
        for kind, run in passes.items():
            begun = time.process_time()
            run()
            times[kind].append(1e3 * (time.process_time() - begun))
    on, off = (min(times[kind]) for kind in ("on", "off"))
    return f"{on:.2f} | {off:.2f} | {on / off:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=8)
    args = parser.parse_args()
    path: Path = find_model(args.model)
    print(f"| {path.name} | on, ms | off, ms | on / off |\n| --- | ---: | ---: | ---: |")
    engines = {kind: LlamaEngine(path, options) for kind, options in OPTIONS.items()}
    for depth in (50, 300, 900):
        for engine in engines.values():
            engine.truncate(0)
            engine.eval(IDS[:depth])
        for n in (1, 5, 44):

            def read(engine: LlamaEngine, depth: int = depth, n: int = n) -> None:
                engine.eval(IDS[:n])
                engine.truncate(depth)

            passes = {k: (lambda e=e: read(e)) for k, e in engines.items()}
            print(f"| {n} after {depth} | {least(passes, args.repeats)} |", flush=True)
    model = LlamaModel(path, OPTIONS["on"])
    contexts = {k: LlamaContext(model, o, 8192, SESSIONS, 64) for k, o in OPTIONS.items()}
    for context in contexts.values():
        for sequence in range(SESSIONS):
            context.decode([Work(sequence, IDS[: 200 + sequence], 1)])
    for sessions, n in ((1, 1), (8, 1), (8, 5)):

        def judge(context: LlamaContext, sessions: int = sessions, n: int = n) -> None:
            context.decode([Work(s, IDS[:n], n) for s in range(sessions)])
            for s in range(sessions):
                context.truncate(200 + s, s)

        passes = {k: (lambda c=c: judge(c)) for k, c in contexts.items()}
        print(f"| {sessions} x {n} of {SESSIONS} sessions | {least(passes, args.repeats)} |")


if __name__ == "__main__":
    main()
