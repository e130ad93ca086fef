"""An upstream engine as a Context: the gateway keeps the texts, the engine tells rows of them.

A row has the engine's log-probabilities at the ids that it tells, and -inf elsewhere. Softmax does
not care what is added to all logits, so for a sampler with a top-k of at most that many ids the
distribution made of such a row is the LLM's exactly: temperature, top-k, top-p and min-p in the
project's order, residual and all. Samplers that look further are refused (`Limits.sampler_top_k`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...common.errors import ContextFull, EngineError
from ...lm.engines.protocol import Logits, Work
from ...lm.vocabulary import Vocabulary
from .protocol import Upstream


class UpstreamContext:
    """Texts of several sequences, and rows of an engine that runs elsewhere.

    A pass asks for all works at the same time, and the engine batches them as it likes. Ids that
    need no row are only noted: the engine reads them with the next row.

    Args:
        upstream: the engine.
        vocab: of its model.
        n_ctx: ids held for all sequences.
        n_sequences: how many.
        max_rows: most rows of one pass.
        threads: questions under way at once.
    """

    def __init__(
        self,
        upstream: Upstream,
        vocab: Vocabulary,
        n_ctx: int,
        n_sequences: int,
        max_rows: int = 256,
        threads: int = 32,
    ) -> None:
        self.vocab = vocab
        self.n_ctx = n_ctx
        self.n_batch = n_ctx  # it is the engine that cuts texts
        self.max_rows = max_rows
        self._upstream = upstream
        self._texts: list[list[int]] = [[] for _ in range(n_sequences)]
        self._pool = ThreadPoolExecutor(min(threads, n_sequences), "uhlm-upstream")

    def length(self, sequence: int = 0) -> int:
        """How many ids the sequence holds."""
        return len(self._texts[sequence])

    def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
        """Append tokens to sequences, each at most once; for each its rows, shape (rows, V).

        Raises:
            ContextFull: no room; the sequences are as before.
            EngineError: the engine failed; the sequences are as before.
        """
        new = sum(len(work.tokens) for work in works)
        if sum(map(len, self._texts)) + new > self.n_ctx:
            raise ContextFull(f"no room for {new} more tokens of {self.n_ctx}")
        before = {work.sequence: self.length(work.sequence) for work in works}
        for work in works:
            self._texts[work.sequence] += work.tokens
        try:
            jobs = [self._pool.submit(self._rows, work) if work.rows else None for work in works]
            errors = [job.exception() for job in jobs if job is not None]  # waits for every one
            for error in errors:
                if error is not None:
                    raise error
        except BaseException:
            for sequence, length in before.items():
                self.truncate(length, sequence)
            raise
        nothing = np.empty((0, len(self.vocab)), dtype=np.float32)
        return [nothing if job is None else job.result() for job in jobs]

    def _rows(self, work: Work) -> Logits:
        width = len(self.vocab)
        rows = np.full((work.rows, width), -np.inf, dtype=np.float32)
        told = self._upstream.rows(self._texts[work.sequence], work.rows)
        for row, (ids, log_probs) in zip(rows, told, strict=True):
            if ids.min() < 0 or ids.max() >= width:
                raise EngineError(
                    f"{self._upstream.name} gives an id outside the vocabulary of {width}: is it "
                    "the same model?"
                )
            row[ids] = log_probs
        return rows

    def truncate(self, n: int, sequence: int = 0) -> None:
        """Forget the ids of a sequence from position `n` on."""
        del self._texts[sequence][n:]

    def cut(self, at: int, n: int, sequence: int = 0) -> bool:
        """The server behind this reads the text anew: there is nothing to keep."""
        return False

    def share(self, source: int, target: int, n: int) -> None:
        """Let an empty sequence begin with the first `n` ids of another."""
        self._texts[target] = self._texts[source][:n]

    def save(self, sequence: int) -> bytes:
        """The ids of a sequence, for `load`."""
        return np.asarray(self._texts[sequence], dtype="<u4").tobytes()

    def state_bytes(self, sequence: int) -> int:
        """How many bytes `save` would return."""
        return 4 * len(self._texts[sequence])

    def load(self, sequence: int, state: bytes, n: int) -> None:
        """Fill an empty sequence with what `save` returned.

        Raises:
            ContextFull: no room; the sequence is empty.
        """
        if sum(map(len, self._texts)) + n > self.n_ctx:
            raise ContextFull(f"no room for {n} more tokens of {self.n_ctx}")
        self._texts[sequence] = np.frombuffer(state, dtype="<u4")[:n].tolist()

    def close(self) -> None:
        """End the threads and drop the connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._upstream.close()
