"""When does it pay to keep the state of a session that made room, instead of reading it again?

`python -m uhlm_edge.experiments.parking [MODEL] [--threads 1] [--repeats 9]`

For several lengths, in turn: read that many ids, copy their keys and values out (parking), and
copy them back in (the return). Medians and minima of milliseconds, and bytes per id.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from ..lm.engines.llama import LlamaContext
from ..lm.engines.llama_model import LlamaModel
from ..lm.engines.options import EngineOptions
from ..lm.engines.protocol import Work
from ..models.resolve import find_model

LENGTHS = (8, 32, 128, 512, 1000)


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="demo-llm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--gpu-layers", type=int, default=0)
    args = parser.parse_args()
    options = EngineOptions(
        n_threads=args.threads, n_threads_batch=args.threads, n_gpu_layers=args.gpu_layers
    )
    model = LlamaModel(find_model(args.model), options)
    context = LlamaContext(model, options, 2 * LENGTHS[-1])
    text = [(7 * i) % (len(model.vocab) // 2) + 10 for i in range(LENGTHS[-1])]
    seconds: dict[tuple[int, str], list[float]] = {}
    sizes: dict[int, int] = {}

    def timed(n: int, name: str, what: Callable[[], object]) -> object:
        begun = time.perf_counter()
        made = what()
        seconds.setdefault((n, name), []).append(time.perf_counter() - begun)
        return made

    for _ in range(args.repeats):
        for n in LENGTHS:
            work = Work(0, text[:n], 0)
            timed(n, "read", lambda work=work: context.decode([work]))  # type: ignore[misc]
            state = timed(n, "park", lambda: context.save(0))
            assert isinstance(state, bytes)  # noqa: S101
            sizes[n] = len(state)
            context.truncate(0)
            timed(n, "return", lambda state=state, n=n: context.load(0, state, n))  # type: ignore[misc]
            context.truncate(0)
    context.close()
    model.close()
    print("| ids | KB per id | read, ms | park, ms | return, ms | read / (park + return) |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for n in LENGTHS:
        middle, least = (
            {name: 1e3 * of(seconds[n, name]) for name in ("read", "park", "return")}
            for of in (statistics.median, min)
        )
        times = " | ".join(f"{middle[x]:.2f} (min {least[x]:.2f})" for x in middle)
        gain = middle["read"] / (middle["park"] + middle["return"])
        print(f"| {n} | {sizes[n] / n / 1024:.1f} | {times} | {gain:.0f} |")


if __name__ == "__main__":
    main()
