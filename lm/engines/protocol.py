"""The seam between the project and whatever runs a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..vocabulary import Vocabulary

Logits = NDArray[np.float32]
"""Raw logits, shape (rows, V), float32."""


class Engine(Protocol):
    """One sequence of ids and the model's logits after them.

    Implementations: llama.cpp (`lm/engines/llama.py`), ONNX (`lm/engines/onnx.py`) and a fake in
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

    def cut(self, at: int, n: int) -> bool:
        """Forget the `n` ids from position `at` on; what follows moves up, and is not read again.

        Its keys and values still carry what it saw of them. False: the model cannot do that, and
        nothing was forgotten.
        """
        ...

    def close(self) -> None:
        """Free what the model holds. Closing twice is fine."""
        ...


class Work(NamedTuple):
    """Tokens to append to one sequence, and how many rows of logits to return for the last."""

    sequence: int
    tokens: Sequence[int]
    rows: int = 1


Matching = Callable[[Sequence[int]], NDArray[np.bool_]]
"""What may follow in one text that must match a grammar: which ids may stand after all of the text
so far. Shape (V,), some are True. Raises EngineError: none may, or the grammar takes too much time
or memory. Implementations: `lm/engines/llama_grammar.py`, and a fake in the tests."""


class Context(Protocol):
    """Several sequences in one pool of cells: what a verifier runs on.

    Implementations: `lm/engines/llama.py` and a fake in the tests. One owner thread.
    """

    @property
    def vocab(self) -> Vocabulary:
        """The vocabulary of the model."""
        ...

    @property
    def n_ctx(self) -> int:
        """Cells of the pool, shared by all sequences."""
        ...

    @property
    def n_batch(self) -> int:
        """Most ids in one pass."""
        ...

    @property
    def max_rows(self) -> int:
        """Most rows of logits in one pass."""
        ...

    def length(self, sequence: int) -> int:
        """How many ids the sequence holds."""
        ...

    def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
        """Append tokens to sequences, each at most once; for each its rows, shape (rows, V).

        They are valid until the next call, with `keep` until the one after that.

        Raises:
            ContextFull: no room; the sequences are as before.
            EngineError: the model failed; the sequences are as before.
        """
        ...

    def truncate(self, n: int, sequence: int) -> None:
        """Forget the ids of a sequence from position `n` on.

        Alone of all, another thread may call it during a pass, for a sequence without part in it.
        """
        ...

    def cut(self, at: int, n: int, sequence: int) -> bool:
        """Forget `n` ids of a sequence from position `at` on; see `Engine.cut`.

        What follows must not be shared with another sequence.
        """
        ...

    def share(self, source: int, target: int, n: int) -> None:
        """Let an empty sequence begin with the first `n` ids of another, in the same cells."""
        ...

    def save(self, sequence: int) -> bytes:
        """Keys and values of a sequence, for `load`."""
        ...

    def state_bytes(self, sequence: int) -> int:
        """How many bytes `save` would return."""
        ...

    def load(self, sequence: int, state: bytes, n: int) -> None:
        """Fill an empty sequence with what `save` returned, which holds `n` ids.

        Raises:
            ContextFull: no room; the sequence is empty.
        """
        ...


class WrappedEngine:
    """An engine around another, which passes everything on.

    The base of those that keep, time, count or slow down a real one.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def vocab(self) -> Vocabulary:
        return self.engine.vocab

    @property
    def n_ctx(self) -> int:
        return self.engine.n_ctx

    @property
    def length(self) -> int:
        return self.engine.length

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        return self.engine.eval(tokens, rows)

    def truncate(self, n: int) -> None:
        self.engine.truncate(n)

    def cut(self, at: int, n: int) -> bool:
        return self.engine.cut(at, n)

    def close(self) -> None:
        self.engine.close()
