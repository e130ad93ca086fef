"""llama.cpp with nothing around it: the limit that an engine built on it can reach."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as ll

from ...common.errors import EngineError, ModelError
from .fit import alone
from .llama_build import FLASH, model_params
from .options import EngineOptions


class BareContext:
    """A context that only decodes: no rows are copied, nothing is drawn.

    The same threads, batch and cache options as an engine's, over weights of its own (which share
    the file's pages with the engine's).
    """

    def __init__(self, path: Path, options: EngineOptions, n_ctx: int, threads: int) -> None:
        model = model_params(options.n_gpu_layers or 0)
        self._model: Any = ll.llama_model_load_from_file(str(path).encode(), model)
        if not self._model:
            raise ModelError(f"{path}: llama.cpp cannot load it")
        params = ll.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = min(options.n_batch, n_ctx)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH[alone(options).flash_attention]
        params.type_k = getattr(ll, f"GGML_TYPE_{options.cache_type_k.upper()}")
        params.type_v = getattr(ll, f"GGML_TYPE_{options.cache_type_v.upper()}")
        params.swa_full = True
        self._context: Any = ll.llama_init_from_model(self._model, params)
        if not self._context:
            ll.llama_model_free(self._model)
            raise ModelError(f"{path}: llama.cpp cannot make a context of {n_ctx} tokens")
        self._n_batch = params.n_batch
        self._n_vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self._model))
        self._one = (ll.llama_token * 1)()

    def __enter__(self) -> BareContext:
        return self

    def __exit__(self, *_: object) -> None:
        ll.llama_free(self._context)
        ll.llama_model_free(self._model)

    @property
    def description(self) -> str:
        """What llama.cpp calls the model: "llama 1B Q4_K - Medium"."""
        text = ctypes.create_string_buffer(128)
        ll.llama_model_desc(self._model, text, 128)
        return text.value.decode("utf-8", "replace")

    def eval(self, tokens: Sequence[int]) -> None:
        """Append ids in batches, with the logits of the last of each."""
        for at in range(0, len(tokens), self._n_batch):
            part = tokens[at : at + self._n_batch]
            array = self._one if len(part) == 1 else (ll.llama_token * len(part))()
            array[:] = list(part)
            code = ll.llama_decode(self._context, ll.llama_batch_get_one(array, len(part)))
            if code != 0:
                raise EngineError(f"llama.cpp failed to run the model (code {code})")
            ll.llama_synchronize(self._context)

    def best(self) -> int:
        """The most likely id after the last one."""
        row = np.ctypeslib.as_array(ll.llama_get_logits(self._context), (self._n_vocab,))
        return int(row.argmax())

    def truncate(self, n: int) -> None:
        """Forget all ids from position `n` on."""
        ll.llama_memory_seq_rm(ll.llama_get_memory(self._context), 0, n, -1)
