"""An importance matrix from the user's own texts.

While a text runs through the model, llama.cpp asks after each operation whether its result is
wanted. For every multiplication with a layer's weight the input is read, and the squares of its
columns are added up: a column that carries large activations makes errors in its weights costly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as ll
from numpy.typing import NDArray

from ...common.errors import DataError, EngineError, ModelError
from ...lm.engines.llama_model import LlamaModel
from ...lm.engines.options import EngineOptions
from ..convert.writer import Progress
from .file import Imatrix
from .llama_ggml import TensorView, find_layout

CHUNK = 512
"""Most ids in one pass."""


class _Collector:
    """Sums over all passes, and the callback that adds to them."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self.error: BaseException | None = None
        self._layout = find_layout()
        self.callback = ll.ggml_backend_sched_eval_callback(self._see)

    def _see(self, address: int, ask: bool, _: object) -> bool:
        """Asked first whether a result is wanted, then given it; False stops the pass."""
        try:
            product = TensorView(address, self._layout)
            if product.operation != "MUL_MAT":
                return not ask
            name = product.operand(0).name
            if not (name.startswith("blk.") and name.endswith(".weight")):
                return not ask
            if not ask:
                self._add(name, product.operand(1).read())
        except BaseException as error:  # Ctrl-C too: on its way through C it would be lost
            self.error = error
            return False
        return True

    def _add(self, name: str, rows: NDArray[np.float32]) -> None:
        squares = np.square(rows, dtype=np.float64).sum(axis=0)
        if not np.isfinite(squares).all():
            raise EngineError(f"the activations of {name} are not finite; is the model damaged?")
        self.sums[name] = self.sums[name] + squares if name in self.sums else squares
        self.counts[name] = self.counts.get(name, 0) + len(rows)


def collect_imatrix(
    path: Path, texts: Sequence[Sequence[int]], progress: Progress | None = None, threads: int = 0
) -> tuple[Imatrix, int]:
    """Run texts through the model and sum up its activations.

    Args:
        path: a GGUF of F32, F16 or BF16 weights.
        texts: ids; each text is cut into passes of at most `CHUNK` ids, and starts anew.
        progress: told the ids done, of how many.
        threads: 0 for one per core.

    Returns:
        The matrix, and over how many passes.

    Raises:
        DataError: there is no text.
        EngineError: llama.cpp failed, or keeps its tensors in an unknown way.
        ModelError: the model is refused.
    """
    pieces = [list(ids[at : at + CHUNK]) for ids in texts for at in range(0, len(ids), CHUNK)]
    if not pieces:
        raise DataError("an importance matrix needs text: the prompts are empty")
    collector = _Collector()
    model = LlamaModel(path, EngineOptions())
    width = max(map(len, pieces))
    context = None
    batch = ll.llama_batch_init(width, 0, 1)
    try:
        context = ll.llama_init_from_model(model.handle, _params(collector, width, threads))
        if not context:
            raise ModelError(f"{path}: llama.cpp cannot make a context of {width} tokens")
        total, done = sum(map(len, pieces)), 0
        for ids in pieces:
            ll.llama_memory_clear(ll.llama_get_memory(context), True)
            _fill(batch, ids)
            code = ll.llama_decode(context, batch)
            if collector.error is not None:
                raise collector.error
            if code != 0:
                raise EngineError(f"llama.cpp failed to run the model (code {code})")
            done += len(ids)
            if progress is not None:
                progress(done, total, "importance matrix")
    finally:
        ll.llama_batch_free(batch)
        if context:
            ll.llama_free(context)
        model.close()
    sums = {name: values.astype(np.float32) for name, values in collector.sums.items()}
    return Imatrix(sums, collector.counts), len(pieces)


def _params(collector: _Collector, width: int, threads: int) -> Any:
    params = ll.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = width
    if threads:
        params.n_threads = params.n_threads_batch = threads
    params.cb_eval = collector.callback
    params.cb_eval_user_data = ctypes.c_void_p(0)
    return params


def _fill(batch: Any, ids: Sequence[int]) -> None:
    """One sequence from position 0, every row wanted: without that the last layer is cut short."""
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i] = token
        batch.pos[i] = i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = 1
