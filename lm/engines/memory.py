"""How much memory a model and its context take, from the header of its file."""

from __future__ import annotations

from ..gguf.header import ArraySummary, Header
from .options import EngineOptions

_BITS = {  # per value of a cache, block scales included
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0,
    "q4_0": 4.5, "iq4_nl": 4.5,
}  # fmt: skip
_FIXED = 48 << 20  # bytes: the interpreter, llama.cpp and numpy, without a model


def cache_bytes(header: Header, options: EngineOptions, n_ctx: int) -> int | None:
    """Bytes of keys and values for `n_ctx` ids, all layers; None if the header does not say.

    llama.cpp rounds `n_ctx` up to a multiple of 256.
    """
    layers = _integer(header, "block_count")
    width = _integer(header, "embedding_length")
    heads = _integer(header, "attention.head_count")
    kv_heads = _integer(header, "attention.head_count_kv") or heads
    if not layers or not width or not heads or not kv_heads:
        return None
    key = _integer(header, "attention.key_length") or width // heads
    value = _integer(header, "attention.value_length") or width // heads
    bits = key * _BITS[options.cache_type_k] + value * _BITS[options.cache_type_v]
    rounded = -(-n_ctx // 256) * 256
    return int(rounded * layers * kv_heads * bits / 8)


def need(header: Header, options: EngineOptions, n_ctx: int, contexts: int = 1) -> int | None:
    """Bytes that a process with this model and `contexts` of `n_ctx` ids takes, about.

    Weights, cache, one pass of activations (three of the widest rows and the logits), and what a
    process has anyway. None if the header does not say.
    """
    cache = cache_bytes(header, options, contexts * n_ctx)
    if cache is None:
        return None
    widest = max(_integer(header, "feed_forward_length") or 0, header.n_vocab or 0)
    activations = 3 * 4 * min(options.n_batch, n_ctx) * widest
    return header.file_size + cache + activations + _FIXED


def trained_context(header: Header) -> int | None:
    """The context length that the model was trained for, in ids; None if the header is silent."""
    return _integer(header, "context_length")


def _integer(header: Header, key: str) -> int | None:
    """A number of the architecture's section; of one that differs by layer, the largest shown."""
    value = header.metadata.get(f"{header.architecture}.{key}")
    if isinstance(value, ArraySummary):
        return max((int(v) for v in value.head if isinstance(v, int)), default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
