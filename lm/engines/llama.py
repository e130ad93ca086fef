"""llama.cpp through its low-level calls: rows of logits, rollback, several sequences."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as ll
from numpy.typing import NDArray

from ...common.errors import ContextFull, EngineError, ModelError
from ..vocabulary import Vocabulary
from .fit import alone
from .llama_build import FLASH
from .llama_model import LlamaModel
from .options import EngineOptions
from .protocol import Logits, Work

_seq_rm: Any = ctypes.PyDLL(ll._lib._name).llama_memory_seq_rm
"""Some microseconds each, and many before a pass: to get the interpreter's lock back after each,
where another thread is busy, would take longer than the pass."""
_seq_rm.argtypes, _seq_rm.restype = ll.llama_memory_seq_rm.argtypes, ctypes.c_bool


class LlamaContext:
    """Keys and values of several sequences in one pool of `n_ctx` cells.

    Not thread-safe: one owner thread.

    Args:
        model: weights and vocabulary.
        options: threads, batch, cache types.
        n_ctx: cells of the pool.
        n_sequences: how many sequences it can hold, at most 256.
        max_rows: most rows of logits in one pass; memory for them is kept, 4 V bytes each.
        apart: each sequence has an equal share of the cells for itself, and passes of its own, so
            that no bit of its logits depends on the others; `share` is not possible then.

    Raises:
        ModelError: llama.cpp cannot make such a context (memory, cache type).
    """

    def __init__(
        self,
        model: LlamaModel,
        options: EngineOptions,
        n_ctx: int,
        n_sequences: int = 1,
        max_rows: int = 64,
        apart: bool = False,
    ) -> None:
        self._handle: Any = None
        self.model = model
        self.n_ctx = n_ctx
        self._lengths = [0] * n_sequences
        self._settled = True  # but for `_ends`, the lengths are what llama.cpp holds
        self._ends: dict[int, int] = {}  # of sequences, to be told to llama.cpp
        self._kept = self._spare = np.empty((0, len(model.vocab)), dtype=np.float32)
        self._n_batch = min(options.n_batch, n_ctx)
        self._max_rows = min(max_rows, self._n_batch)
        options = model.fitted(options)
        params = ll.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = self._n_batch
        params.n_seq_max = n_sequences
        params.n_outputs_max = params.n_outputs_max_per_seq = self._max_rows
        params.n_threads = options.n_threads
        params.n_threads_batch = options.n_threads_batch
        params.flash_attn_type = FLASH[options.flash_attention]
        params.type_k = getattr(ll, f"GGML_TYPE_{options.cache_type_k.upper()}")
        params.type_v = getattr(ll, f"GGML_TYPE_{options.cache_type_v.upper()}")
        params.swa_full = True  # a sliding window that forgets could not be rolled back
        params.kv_unified = not apart  # a partial copy of a sequence aborts the process without
        self._apart = apart
        self._handle = ll.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise ModelError(
                f"{model.path}: llama.cpp cannot make a context of {n_ctx} tokens with cache types "
                f"{options.cache_type_k}/{options.cache_type_v}; try a smaller n_ctx, f16 caches, "
                "or flash_attention = 'on'"
            )
        self._memory = ll.llama_get_memory(self._handle)
        self._batch = _Batch(self._n_batch)
        self._width = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model.handle))

    @property
    def vocab(self) -> Vocabulary:
        return self.model.vocab

    @property
    def n_batch(self) -> int:
        """Most ids in one pass."""
        return self._n_batch

    @property
    def max_rows(self) -> int:
        """Most rows of logits in one pass."""
        return self._max_rows

    def length(self, sequence: int = 0) -> int:
        """How many ids the sequence holds."""
        return self._lengths[sequence]

    def share(self, source: int, target: int, n: int) -> None:
        """Let an empty sequence begin with the first `n` ids of another: no cell is copied."""
        self._settle()
        ll.llama_memory_seq_cp(self._memory, source, target, 0, n)
        self._lengths[target] = n

    def save(self, sequence: int) -> bytes:
        """Keys and values of a sequence. They are no more to be trusted than whoever kept them."""
        size = self.state_bytes(sequence)
        state = (ctypes.c_uint8 * size)()
        written = ll.llama_state_seq_get_data(self._handle, state, size, sequence)
        return bytes(memoryview(state)[:written])

    def state_bytes(self, sequence: int) -> int:
        """How many bytes `save` would return."""
        self._settle()
        return int(ll.llama_state_seq_get_size(self._handle, sequence))

    def load(self, sequence: int, state: bytes, n: int) -> None:
        """Fill an empty sequence with what `save` returned, which holds `n` ids.

        Raises:
            ContextFull: no room; the sequence is empty.
        """
        self._settle()
        buffer = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        if not ll.llama_state_seq_set_data(self._handle, buffer, len(state), sequence):
            self._remove(sequence, 0)
            raise ContextFull(f"no room for {n} more tokens in a context of {self.n_ctx}")
        self._lengths[sequence] = n

    def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
        """Append tokens to sequences, each at most once, in as few passes as possible.

        Returns:
            For each work its rows, shape (rows, V) float32, valid until the next call; with `keep`
            until the one after that.

        Raises:
            ContextFull: no room; the sequences are as before.
            EngineError: llama.cpp failed; the sequences are as before.
        """
        self._settle()
        before = {work.sequence: self._lengths[work.sequence] for work in works}
        try:
            batches = self._batches(works)
            if self._apart:
                batches = [batch for work in works for batch in self._batches([work])]
            parts = [self._append(batch) for batch in batches[:1]]
            if len(batches) > 1:  # the next pass overwrites the rows of the one before
                parts = [parts[0].copy(), *(self._append(b).copy() for b in batches[1:])]
        except EngineError:
            for sequence, length in before.items():
                self.truncate(length, sequence)
            raise
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if keep and len(parts) == 1:
            flat = self._keep(flat)
        ends = np.cumsum([work.rows for work in works])[:-1]
        return list(np.split(flat, ends)) if len(works) > 1 else [flat]

    def _keep(self, rows: Logits) -> Logits:
        """A copy in memory that was used before: fresh pages take longer than the copy."""
        spare, self._kept = self._kept, self._spare
        if len(spare) < len(rows):
            spare = np.empty(
                (max(len(rows), min(2 * len(rows), self._max_rows)), rows.shape[1]),
                dtype=np.float32,
            )
        self._spare = spare
        kept = spare[: len(rows)]
        np.copyto(kept, rows)
        return kept

    def _batches(self, works: Sequence[Work]) -> list[list[Work]]:
        """Cut works so that no batch exceeds n_batch ids or max_rows rows."""
        batches: list[list[Work]] = [[]]
        room, rows_left = self._n_batch, self._max_rows
        for sequence, tokens, rows in works:
            at = 0
            while at < len(tokens):
                silent = len(tokens) - rows  # tokens without a row come first
                n = min(len(tokens) - at, room, max(silent - at, 0) + rows_left)
                if n == 0:
                    batches.append([])
                    room, rows_left = self._n_batch, self._max_rows
                    continue
                wanted = max(0, at + n - max(silent, at))
                batches[-1].append(Work(sequence, tokens[at : at + n], wanted))
                at, room, rows_left = at + n, room - n, rows_left - wanted
        return batches

    def _append(self, works: Sequence[Work]) -> Logits:
        n, rows = self._batch.fill(works, self._lengths)
        if n == 0:
            return np.empty((0, len(self.model.vocab)), dtype=np.float32)
        self._settled = False
        code = ll.llama_decode(self._handle, self._batch.struct)
        if code == 1:
            raise ContextFull(f"no room for {n} more tokens in a context of {self.n_ctx}")
        if code != 0:
            raise EngineError(f"llama.cpp failed to run the model (code {code})")
        for work in works:
            self._lengths[work.sequence] += len(work.tokens)
        self._settled = True
        if rows == 0:
            return np.empty((0, len(self.model.vocab)), dtype=np.float32)
        block = np.ctypeslib.as_array(ll.llama_get_logits(self._handle), (rows, self._width))
        return block[:, : len(self.model.vocab)]

    def truncate(self, n: int, sequence: int = 0) -> None:
        """Forget the ids of a sequence from position `n` on.

        llama.cpp is told before it is next asked for anything: so this may be called while another
        thread runs a pass without this sequence.
        """
        if n < self._lengths[sequence]:
            self._lengths[sequence] = n
            self._ends[sequence] = min(n, self._ends.get(sequence, n))

    def cut(self, at: int, n: int, sequence: int = 0) -> bool:
        """Forget `n` ids of a sequence from position `at` on; the later ones move up.

        Their keys are turned to the new positions, in the next pass, and nothing is read again.
        What follows must not be shared with another sequence: it would move there too.
        """
        if not ll.llama_memory_can_shift(self._memory):
            return False
        self._settle()
        end, length = at + n, self._lengths[sequence]
        self._settled = False
        self._lengths[sequence] = at  # if this is interrupted, the rest is dropped
        if not ll.llama_memory_seq_rm(self._memory, sequence, at, end):
            raise EngineError(f"llama.cpp refused to cut sequence {sequence} at {at}")
        ll.llama_memory_seq_add(self._memory, sequence, end, -1, -n)
        self._lengths[sequence] = length - n
        self._settled = True
        return True

    def _settle(self) -> None:
        """Tell llama.cpp what was forgotten, and put right what an interrupt (Ctrl-C) has left."""
        if self._ends:
            was_settled, self._settled = self._settled, False
            while self._ends:
                self._remove(*self._ends.popitem())
            self._settled = was_settled
        if not self._settled:
            for sequence, length in enumerate(self._lengths):
                self._remove(sequence, length)
            self._settled = True

    def _remove(self, sequence: int, n: int) -> None:
        if not _seq_rm(self._memory, sequence, n, -1):
            raise EngineError(f"llama.cpp refused to roll sequence {sequence} back to {n} tokens")

    def close(self) -> None:
        """Free keys and values; the model stays."""
        if self._handle is not None:
            ll.llama_free(self._handle)
            self._handle = None


class _Batch:
    """A llama_batch over numpy arrays, filled without a loop over tokens."""

    def __init__(self, n: int) -> None:
        self._tokens = np.zeros(n, dtype=np.int32)
        self._positions = np.zeros(n, dtype=np.int32)
        self._counts = np.ones(n, dtype=np.int32)
        self._sequences = np.zeros(n, dtype=np.int32)
        self._wanted = np.zeros(n, dtype=np.int8)
        pointer = ctypes.POINTER(ctypes.c_int32)
        base, step = self._sequences.ctypes.data, self._sequences.itemsize
        self._pointers = (pointer * n)(*(ctypes.cast(base + i * step, pointer) for i in range(n)))
        self.struct = ll.llama_batch(
            n_tokens=0,
            token=_as(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_as(self._positions, ctypes.c_int32),
            n_seq_id=_as(self._counts, ctypes.c_int32),
            seq_id=ctypes.cast(self._pointers, ctypes.POINTER(pointer)),
            logits=_as(self._wanted, ctypes.c_int8),
        )

    def fill(self, works: Sequence[Work], lengths: Sequence[int]) -> tuple[int, int]:
        """Write the works; returns how many ids and how many rows they make."""
        ids: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        flags: list[int] = []
        for sequence, tokens, wanted in works:
            n, before = len(tokens), lengths[sequence]
            ids += tokens
            positions += range(before, before + n)
            sequences += [sequence] * n
            flags += [0] * (n - wanted) + [1] * wanted
        n = len(ids)
        self._tokens[:n] = ids
        self._positions[:n] = positions
        self._sequences[:n] = sequences
        self._wanted[:n] = flags
        self.struct.n_tokens = n
        return n, sum(work.rows for work in works)


def _as(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


class LlamaEngine:
    """The Engine of the device: one sequence.

    Args:
        path: a GGUF file.
        options: how to load and run it.
        max_rows: most rows of logits in one pass.

    Raises:
        ModelError: the file is refused, or no context can be made.
    """

    def __init__(self, path: Path, options: EngineOptions | None = None, max_rows: int = 1) -> None:
        self.model = LlamaModel(path, options or EngineOptions())
        self.options = alone(self.model.fitted(options or EngineOptions()))
        n_ctx = self.options.n_ctx
        self._context = LlamaContext(self.model, self.options, n_ctx, max_rows=max_rows)

    @property
    def vocab(self) -> Vocabulary:
        return self.model.vocab

    @property
    def n_ctx(self) -> int:
        return self._context.n_ctx

    @property
    def length(self) -> int:
        return self._context.length()

    def eval(self, tokens: Sequence[int], rows: int = 1) -> Logits:
        if self.length + len(tokens) > self.n_ctx:
            raise ContextFull(f"no room for {len(tokens)} more tokens in a context of {self.n_ctx}")
        return self._context.decode([Work(0, tokens, rows)])[0]

    def truncate(self, n: int) -> None:
        self._context.truncate(n)

    def cut(self, at: int, n: int) -> bool:
        return self._context.cut(at, n)

    def save(self) -> bytes:
        """Keys and values of all ids that it holds."""
        return self._context.save(0)

    def load(self, state: bytes, n: int) -> None:
        """Put back what `save` returned, of `n` ids, into an empty engine. Raises ContextFull."""
        self._context.load(0, state, n)

    def close(self) -> None:
        self._context.close()
        self.model.close()
