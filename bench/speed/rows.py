"""Rows of logits that a model really gives: after prompts, and along replies that it draws."""

from __future__ import annotations

from contextlib import closing
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...lm.engines.generate import generate
from ...lm.engines.options import EngineOptions
from ...lm.row import Row
from ...lm.sampling import Sampler
from ..energy.workload import PROMPTS


def model_rows(path: Path, options: EngineOptions, n: int) -> NDArray[np.float32]:
    """`n` rows, shape (n, V): each prompt in turn is continued for up to 16 tokens.

    Raises:
        ModelError: the file is refused.
    """
    from ...lm.engines.llama import LlamaEngine

    random = np.random.default_rng(0)
    sampler = Sampler(temperature=1.0)
    rows: list[NDArray[np.float32]] = []

    def draw(row: Row) -> int:
        return sampler.distribution(row).draw(float(random.random()))

    with closing(LlamaEngine(path, options)) as engine:
        for prompt in cycle(PROMPTS):
            limit = min(16, n - len(rows))
            steps = generate(engine, engine.vocab.tokenize(prompt), draw, limit)
            rows += [step.row.logits.copy() for step in steps]
            if len(rows) == n:
                break
    return np.array(rows)
