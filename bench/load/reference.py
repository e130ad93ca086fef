"""One batched llama.cpp context with nothing around it: the limit of a verifier on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ...lm.engines.llama import LlamaContext
from ...lm.engines.llama_model import LlamaModel
from ...lm.engines.options import EngineOptions
from ...lm.engines.protocol import Work

_DEPTH = 64


def batched_rates(
    path: Path, options: EngineOptions, shapes: Sequence[tuple[int, int]], seconds: float = 2.0
) -> list[dict[str, Any]]:
    """Tokens per second of sequences x tokens in one pass each, a row of logits per token.

    Each pass appends to sequences of some 64 ids and is rolled back, so that the depth stays.

    Raises:
        ModelError: the model is refused.
    """
    rows = []
    with closing(LlamaModel(path, options)) as model:
        for sequences, tokens in shapes:
            cells = sequences * (_DEPTH + tokens)
            rows_at_once = sequences * tokens
            with closing(LlamaContext(model, options, cells, sequences, rows_at_once)) as context:
                passes, spent = _passes(context, sequences, tokens, seconds)
            rows.append(
                {
                    "reference": f"bare context {sequences} x {tokens}",
                    "devices": sequences,
                    "drafts": tokens,
                    "tokens_per_s": passes * sequences * tokens / spent,
                    "passes_per_s": passes / spent,
                    "pass_ms": 1e3 * spent / passes,
                }
            )
    return rows


def _passes(context: LlamaContext, n: int, tokens: int, seconds: float) -> tuple[int, float]:
    size = len(context.vocab)
    text = [(7 * i) % (size // 2) + size // 4 for i in range(_DEPTH + tokens)]
    for sequence in range(n):
        context.decode([Work(sequence, text[:_DEPTH], 0)])
    works = [Work(sequence, text[_DEPTH:], tokens) for sequence in range(n)]
    passes, begun = -3, time.perf_counter()
    while True:
        if passes == 0:  # the first ones warm up
            begun = time.perf_counter()
        context.decode(works)
        for sequence in range(n):
            context.truncate(_DEPTH, sequence)
        passes += 1
        spent = time.perf_counter() - begun
        if passes > 0 and spent > seconds:
            return passes, spent
