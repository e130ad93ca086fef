"""An engine inside another: the base of those that keep, time, count or slow down a real one."""

from __future__ import annotations

from collections.abc import Sequence

from ..vocabulary import Vocabulary
from .protocol import Engine, Logits


class WrappedEngine:
    """Passes everything on. Subclasses change what they keep or measure."""

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
