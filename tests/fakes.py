"""Models of a few lines: logits are a fixed pseudo-random function of all ids before them.

So a rollback, a re-send or a batch that went wrong shows at once: nothing else gives that row.
`DEVICE` and `CLOUD` share a vocabulary, and their distributions differ as those of a small and
a large model do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uhlm_edge.common.errors import ContextFull
from uhlm_edge.lm.engines.protocol import Logits, Work
from uhlm_edge.lm.vocabulary import Kind, Vocabulary

END = "<|end|>"


class FakeVocabulary(Vocabulary):
    """The 256 bytes and an end of text; with a smaller `n`, the letters from "a" on and the end."""

    def __init__(self, n: int = 257) -> None:
        self._first = 0 if n == 257 else ord("a")
        letters = [bytes([self._first + i]) for i in range(n - 1)]
        kinds = [Kind.NORMAL] * (n - 1) + [Kind.CONTROL]
        super().__init__([*letters, END.encode()], kinds, [n - 1], eos=END)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        if special and END in text:
            before, _, after = text.partition(END)
            end = len(self.pieces) - 1
            return [*self.tokenize(before), end, *self.tokenize(after, special)]
        return [byte - self._first for byte in text.encode()]


@dataclass(frozen=True)
class FakeModel:
    """A distribution over ids: part of it all models share, part is its own.

    Attributes:
        name: for messages.
        seed: what makes it differ.
        vocab: its ids.
        own: how much it differs from other models.
        end: added to the logit of the end of text, which is rare enough by default.
    """

    name: str
    seed: int
    vocab: FakeVocabulary = field(default_factory=FakeVocabulary)
    own: float = 0.3
    end: float = -2.0

    def row(self, ids: Sequence[int]) -> Logits:
        """The logits after `ids`, shape (V,)."""
        before = np.asarray(ids, dtype="<u4").tobytes()
        row = 1.5 * self._normal(0, before) + self.own * self._normal(self.seed, before)
        row[-1] += self.end
        return row.astype(np.float32)

    def _normal(self, seed: int, before: bytes) -> NDArray[Any]:
        digest = hashlib.blake2b(before, digest_size=8, salt=bytes([seed])).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "little"))
        return generator.standard_normal(len(self.vocab))

    def rows(self, ids: Sequence[int], n: int) -> Logits:
        """The logits after each of the last `n` ids, shape (n, V)."""
        every = [self.row(ids[:end]) for end in range(len(ids) - n + 1, len(ids) + 1)]
        return np.array(every, dtype=np.float32).reshape(n, len(self.vocab))


class Remembering(FakeModel):
    """Computes no row twice: short texts of few ids come back again and again."""

    def row(self, ids: Sequence[int]) -> Logits:
        return self._known(tuple(ids))

    @cache  # noqa: B019 - models of a test module
    def _known(self, ids: tuple[int, ...]) -> Logits:
        row = super().row(ids)
        row.flags.writeable = False
        return row


DEVICE = FakeModel("fake-slm", 1)
CLOUD = FakeModel("fake-llm", 2)


class FakeEngine:
    """The Engine of a FakeModel. `widths` has the number of ids of every pass."""

    def __init__(self, model: FakeModel = DEVICE, n_ctx: int = 256) -> None:
        self.vocab: Vocabulary = model.vocab
        self.n_ctx = n_ctx
        self.ids: list[int] = []
        self.widths: list[int] = []
        self._model = model

    @property
    def length(self) -> int:
        return len(self.ids)

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        if len(self.ids) + len(tokens) > self.n_ctx:
            raise ContextFull("the fake context is full")
        self.ids += tokens
        self.widths.append(len(tokens))
        return self._model.rows(self.ids, rows)

    def truncate(self, n: int) -> None:
        del self.ids[n:]

    def cut(self, at: int, n: int) -> bool:
        del self.ids[at : at + n]
        return True

    def close(self) -> None:
        pass


class FakeContext:
    """The Context of a FakeModel: sequences in one pool. `passes` has the works of every pass.

    Shared ids count once, as cells do.
    """

    def __init__(
        self,
        model: FakeModel = CLOUD,
        n_ctx: int = 1024,
        n_sequences: int = 8,
        n_batch: int = 512,
        max_rows: int = 64,
    ) -> None:
        self.vocab: Vocabulary = model.vocab
        self.n_ctx, self.n_batch, self.max_rows = n_ctx, n_batch, max_rows
        self._cells: list[list[object]] = [[] for _ in range(n_sequences)]
        self.ids: list[list[int]] = [[] for _ in range(n_sequences)]
        self.passes: list[list[Work]] = []
        self._model = model

    def length(self, sequence: int) -> int:
        return len(self.ids[sequence])

    @property
    def used(self) -> int:
        """Cells in use."""
        return len({cell for cells in self._cells for cell in cells})

    def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
        new = sum(len(work.tokens) for work in works)
        assert new <= self.n_batch
        assert sum(work.rows for work in works) <= self.max_rows
        assert len({work.sequence for work in works}) == len(works)
        if self.used + new > self.n_ctx:
            raise ContextFull("the fake pool is full")
        self.passes.append(list(works))
        for work in works:
            self.ids[work.sequence] += work.tokens
            self._cells[work.sequence] += [object() for _ in work.tokens]
        return [self._model.rows(self.ids[work.sequence], work.rows) for work in works]

    def truncate(self, n: int, sequence: int) -> None:
        del self.ids[sequence][n:]
        del self._cells[sequence][n:]

    def cut(self, at: int, n: int, sequence: int) -> bool:
        moved = self._cells[sequence][at + n :]
        others = [cells for i, cells in enumerate(self._cells) if i != sequence]
        assert not any(cell in cells for cell in moved for cells in others)
        del self.ids[sequence][at : at + n]
        del self._cells[sequence][at : at + n]
        return True

    def share(self, source: int, target: int, n: int) -> None:
        assert not self.ids[target]
        assert n <= len(self.ids[source])
        self.ids[target] = self.ids[source][:n]
        self._cells[target] = self._cells[source][:n]

    def save(self, sequence: int) -> bytes:
        return np.asarray(self.ids[sequence], dtype="<u4").tobytes()

    def state_bytes(self, sequence: int) -> int:
        return 4 * len(self.ids[sequence])

    def load(self, sequence: int, state: bytes, n: int) -> None:
        assert not self.ids[sequence]
        if self.used + n > self.n_ctx:
            raise ContextFull("the fake pool is full")
        self.ids[sequence] = np.frombuffer(state, dtype="<u4").tolist()
        self._cells[sequence] = [object() for _ in range(n)]
