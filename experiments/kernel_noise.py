"""How far the same ids move from themselves by what else the verifier does, and the price of rest.

    python -m uhlm_edge.experiments.kernel_noise

One text is read by the LLM in other company, in other widths, and in cells of its own
(`verifier.apart`); its log-probabilities are compared with those of the text alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..common.tables import render
from ..lm.engines.llama import LlamaContext
from ..lm.engines.llama_model import LlamaModel
from ..lm.engines.options import EngineOptions
from ..lm.engines.protocol import Work
from ..models.shipped import path_of

OPTIONS = EngineOptions(n_threads=1, n_threads_batch=1, n_ctx=512)
IDS = np.random.default_rng(0).integers(300, 8000, size=(8, 200)).tolist()
PROMPT, END = 30, 60
CASES = (
    "alone", "others in between", "others left cells before it", "a rejected block",
    "prompt in halves", "prompt id by id",
)  # fmt: skip


def log_probs(context: LlamaContext, case: str) -> NDArray[np.float64]:
    """Of the ids PROMPT to END of one text, each fed alone, shape (END - PROMPT, V)."""
    cuts = {"prompt in halves": [15, PROMPT], "prompt id by id": range(1, PROMPT + 1)}
    company = case.startswith("others")
    if company:
        context.decode([Work(1, IDS[1][:60]), Work(2, IDS[2][:77])])
    begin = 0
    for end in cuts.get(case, [PROMPT]):
        context.decode([Work(0, IDS[0][begin:end])])
        begin = end
    rows = []
    for i in range(PROMPT, END):
        if case == "others left cells before it" and i == PROMPT + 10:
            context.truncate(0, 1)
        if case == "a rejected block" and i % 10 == 5:
            context.decode([Work(0, IDS[3][i : i + 4])])
            context.truncate(i, 0)
        if company:
            context.decode([Work(3, IDS[3][i : i + 3])])
        rows.append(context.decode([Work(0, [IDS[0][i]])])[0][0].astype(np.float64))
    z = np.array(rows)
    z -= z.max(axis=1, keepdims=True)
    log_p: NDArray[np.float64] = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return log_p


def noise(model: LlamaModel) -> list[dict[str, object]]:
    """A row per case: the largest shift of log p, and the mean total variation of a token."""
    rows: list[dict[str, object]] = []
    for apart in (False, True):
        found = {}
        for case in CASES:
            context = LlamaContext(model, OPTIONS, 4 * 512, 4, apart=apart)
            found[case] = log_probs(context, case)
            context.close()
        alone = found["alone"]
        for case, log_p in found.items():
            shift = float(np.abs(log_p - alone).max())
            moved = 0.5 * np.abs(np.exp(log_p) - np.exp(alone)).sum(axis=1).mean()
            cells = "own" if apart else "shared"
            rows.append({"cells": cells, "case": case, "log p": shift, "TV a token": moved})
    return rows


def price(model: LlamaModel, sessions: Sequence[int] = (1, 2, 4, 8)) -> list[dict[str, object]]:
    """Processor time to feed an id to each of n sessions, median of 40, taken in turns."""
    rows: list[dict[str, object]] = []
    for n in sessions:
        contexts = {a: LlamaContext(model, OPTIONS, n * 512, n, apart=a) for a in (False, True)}
        times: dict[bool, list[float]] = {False: [], True: []}
        for context in contexts.values():
            for s in range(n):
                context.decode([Work(s, IDS[s][:100])])
        for i in range(100, 140):
            for apart, context in contexts.items():
                begun = time.process_time()
                context.decode([Work(s, [IDS[s][i]]) for s in range(n)])
                times[apart].append(time.process_time() - begun)
        shared, own = (1e3 * statistics.median(times[apart]) for apart in (False, True))
        rows.append({"sessions": n, "shared ms": shared, "own ms": own, "ratio": own / shared})
        for context in contexts.values():
            context.close()
    return rows


def main() -> None:
    """Print both tables."""
    model = LlamaModel(path_of("demo-llm"), OPTIONS)
    print(render(noise(model), "md"))
    print(render(price(model), "md"))
    model.close()


if __name__ == "__main__":
    main()
