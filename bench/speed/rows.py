"""Rows of logits that a model really gives: after prompts, and along replies that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...lm.engines.options import EngineOptions
from ...lm.sampling import Sampler
from ..energy.workload import PROMPTS

__all__ = ["model_rows"]


def model_rows(
    path: Path,
    options: EngineOptions,
    n: int,
    prompts: Sequence[str] = PROMPTS,
    seed: int = 0,
) -> NDArray[np.float32]:
    """`n` rows, shape (n, V): each prompt in turn is continued for up to 16 tokens.

    Raises:
        ModelError: the file is refused.
    """
    from ...lm.engines.llama import LlamaEngine

    engine = LlamaEngine(path, options)
    random = np.random.default_rng(seed)
    sampler = Sampler(temperature=1.0)
    rows: list[NDArray[np.float32]] = []
    try:
        while len(rows) < n:
            engine.truncate(0)
            ids = engine.vocab.tokenize(prompts[(len(rows) // 16) % len(prompts)])
            for _ in range(min(16, n - len(rows))):
                row = engine.eval(ids)[0].copy()
                rows.append(row)
                ids = [sampler.distribution(row).draw(float(random.random()))]
    finally:
        engine.close()
    return np.array(rows)
