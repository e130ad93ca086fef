"""What the verifier needs of an engine that runs elsewhere: the most likely ids at positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Top(NamedTuple):
    """The most likely ids after one position.

    Shapes: ids (k,) int64; log_probs (k,) float32, of the plain softmax at temperature 1.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]


class Upstream(Protocol):
    """An engine behind HTTP. It keeps no session: every question brings the whole text.

    Attributes:
        name: of the model, as the engine calls it.
        n_ctx: ids of a text that it takes.
        top: how many ids it tells of a position: the largest top-k of a session's sampler.
    """

    name: str
    n_ctx: int
    top: int

    def rows(self, ids: Sequence[int], n: int) -> list[Top]:
        """The most likely ids after each of the last `n` of `ids`, in order. Any thread may ask.

        Raises:
            EngineError: it does not answer, or not what was asked.
        """
        ...

    def close(self) -> None:
        """Drop connections."""
        ...
