"""Texts as vectors: mean-pooled embeddings of a GGUF model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as ll
from numpy.typing import NDArray

from ...common.errors import EngineError, ModelError
from .llama_model import LlamaModel
from .options import EngineOptions

_LONGEST = 1024  # ids of one text; the rest is left out


class LlamaEmbedder:
    """One vector per text: the mean over its ids of what the last layer gives.

    Args:
        path: a GGUF file, of an embedding model or of a language model.
        options: where the layers go, threads.

    Raises:
        ModelError: the file is refused, or gives no embeddings.
    """

    def __init__(self, path: Path, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        self._handle: Any = None
        self.model = LlamaModel(path, options)
        self._room = min(self.model.n_ctx_train, _LONGEST)
        params = ll.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._room
        params.n_outputs_max = params.n_outputs_max_per_seq = self._room
        params.n_threads = params.n_threads_batch = options.n_threads or 1
        params.embeddings = True
        params.pooling_type = ll.LLAMA_POOLING_TYPE_MEAN
        self._handle = ll.llama_init_from_model(self.model.handle, params)
        if not self._handle:
            raise ModelError(f"{path}: llama.cpp makes no embeddings with it")
        self._width = ll.llama_model_n_embd(self.model.handle)

    def embed(self, text: str) -> NDArray[np.float32]:
        """The vector of a text, shape (D,); zeros for a text without ids.

        Raises:
            EngineError: llama.cpp failed.
        """
        ids = self.model.vocab.tokenize(text)[: self._room]
        if not ids:
            return np.zeros(self._width, dtype=np.float32)
        ll.llama_memory_clear(ll.llama_get_memory(self._handle), True)
        array = (ll.llama_token * len(ids))(*ids)
        code = ll.llama_decode(self._handle, ll.llama_batch_get_one(array, len(ids)))
        vector = ll.llama_get_embeddings_seq(self._handle, 0) if code == 0 else None
        if not vector:
            raise EngineError(f"llama.cpp failed to embed a text (code {code})")
        return np.ctypeslib.as_array(vector, (self._width,)).copy()

    def close(self) -> None:
        """Free the context and the model. Closing twice is fine."""
        if self._handle is not None:
            ll.llama_free(self._handle)
            self._handle = None
        self.model.close()
