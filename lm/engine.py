"""The seam between the project and whatever runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .vocab import Vocabulary

__all__ = ["Engine", "Logits"]

Logits = NDArray[np.float32]
"""Raw logits, shape (rows, V), float32."""


class Engine(Protocol):
    """One sequence of ids and the model's logits after them.

    Implementations: llama.cpp (`lm/llama_engine.py`), ONNX (`lm/onnx_engine.py`) and a fake in
    the tests.
    """

    @property
    def vocab(self) -> Vocabulary:
        """The vocabulary: text to ids and back, end-of-text ids, fingerprint."""
        ...

    @property
    def n_ctx(self) -> int:
        """How many ids the context can hold."""
        ...

    @property
    def length(self) -> int:
        """How many ids it holds now."""
        ...

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        """Append `tokens` and return the logits after each of the last `rows` of them.

        Returns an array of shape (rows, V). It is valid until the next call: copy what is kept.
        With `rows=0` the shape is (0, V).

        Raises:
            ContextFull: the tokens do not fit; nothing was appended.
            EngineError: the model failed; nothing was appended.
        """
        ...

    def truncate(self, n: int) -> None:
        """Forget all ids from position `n` on."""
        ...

    def close(self) -> None:
        """Free what the model holds. Closing twice is fine."""
        ...
