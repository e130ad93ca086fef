"""What is particular to each model family, said once, as data.

A family names the architecture in both worlds, the tensors a layer has, and the few places where
llama.cpp stores weights differently. Everything else is the same for all and lies in `convert.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import ModelError
from .rope import Rope, positive, read_rope


@dataclass(frozen=True)
class Family:
    """One architecture. Shapes are written with the letters of `Layout.sizes`."""

    arch: str
    architectures: tuple[str, ...]
    extra: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    must: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    pairs_split: bool = False
    norm_offset: float = 0.0
    local_base: float | None = None


_LAYER = {
    "attn_norm.weight": "w", "attn_q.weight": "qw", "attn_k.weight": "kw", "attn_v.weight": "kw",
    "attn_output.weight": "wq", "ffn_norm.weight": "w", "ffn_gate.weight": "fw",
    "ffn_up.weight": "fw", "ffn_down.weight": "wf",
}  # fmt: skip
_QKV_BIAS = {"attn_q.bias": "q", "attn_k.bias": "k", "attn_v.bias": "k"}
_QK_NORM = {"attn_q_norm.weight": "d", "attn_k_norm.weight": "d"}
_MOST_LAYERS = 4096
_LARGEST_VOCABULARY = 1 << 24
_SILU = ("silu", "swish")
_FULL = (False, None)

FAMILIES = (
    Family(
        arch="llama",
        architectures=("LlamaForCausalLM",),
        optional={
            **_QKV_BIAS,
            "attn_output.bias": "w",
            "ffn_gate.bias": "f",
            "ffn_up.bias": "f",
            "ffn_down.bias": "w",
        },
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
        must={"hidden_act": _SILU},
        pairs_split=True,
    ),
    Family(
        arch="qwen2",
        architectures=("Qwen2ForCausalLM",),
        extra=_QKV_BIAS,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
        must={"hidden_act": _SILU, "use_sliding_window": _FULL},
    ),
    Family(
        arch="qwen3",
        architectures=("Qwen3ForCausalLM",),
        extra=_QK_NORM,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 128},
        must={"hidden_act": _SILU, "use_sliding_window": _FULL, "attention_bias": _FULL},
    ),
    Family(
        arch="gemma3",
        architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        extra={**_QK_NORM, "post_attention_norm.weight": "w", "post_ffw_norm.weight": "w"},
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "head_dim": 256,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "num_hidden_layers": 26,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            "query_pre_attn_scalar": 256,
            "rope_theta": 1_000_000.0,
        },
        must={
            "hidden_activation": ("gelu_pytorch_tanh",),
            "attention_bias": _FULL,
            "attn_logit_softcapping": (None,),
            "use_bidirectional_attention": _FULL,
        },
        norm_offset=1.0,
        local_base=10000.0,
    ),
)


@dataclass(frozen=True)
class Layout:
    """The numbers of one model, read from its config."""

    family: Family
    config: Mapping[str, Any]
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    eps: float
    tied: bool
    rope: Rope

    @property
    def sizes(self) -> dict[str, int]:
        """width, query rows, key rows, feed-forward, head: the letters of the shape strings."""
        heads = {"q": self.heads * self.head_dim, "k": self.kv_heads * self.head_dim}
        return {"w": self.width, **heads, "f": self.hidden, "d": self.head_dim}

    def layer_shapes(self, layer: int, optional: bool = False) -> dict[str, tuple[int, ...]]:
        """GGUF names and shapes (rows, columns) of the tensors of one layer."""
        names = self.family.optional if optional else {**_LAYER, **self.family.extra}
        sizes = self.sizes
        return {
            f"blk.{layer}.{name}": tuple(sizes[letter] for letter in letters)
            for name, letters in names.items()
        }

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """The order of the rows of a query or key projection, None to keep it.

        Hugging Face rotates a head's first half against its second; llama.cpp's llama rotates
        neighbours, so that rows i and i + d/2 become rows 2i and 2i + 1.
        """
        part = name.split(".")[-2] if name.startswith("blk.") else ""
        if not self.family.pairs_split or part not in ("attn_q", "attn_k"):
            return None
        heads = self.heads if part == "attn_q" else self.kv_heads
        rows = np.arange(heads * self.head_dim, dtype=np.intp)
        split = rows.reshape(heads, 2, self.head_dim // 2)
        order: NDArray[np.intp] = split.swapaxes(1, 2).reshape(-1)
        return order

    def offset(self, name: str) -> float:
        """What is added to each weight: gemma stores its norms as differences from 1."""
        return self.family.norm_offset if name.endswith("norm.weight") else 0.0

    def metadata(self) -> dict[str, Any]:
        """Keys below the architecture's name, besides the vocabulary's size."""
        keys: dict[str, Any] = {
            "context_length": self.rope.context, "embedding_length": self.width,
            "block_count": self.layers, "feed_forward_length": self.hidden,
            "attention.head_count": self.heads, "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim, "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": self.eps, "rope.dimension_count": self.head_dim,
        }  # fmt: skip
        keys |= {f"rope.{name}": value for name, value in self.rope.metadata().items()}
        if self.family.arch == "gemma3":
            keys |= self._gemma_metadata()
        return keys

    def _gemma_metadata(self) -> dict[str, Any]:
        window = int(self.config["sliding_window"])
        keys: dict[str, Any] = {"attention.sliding_window": window}
        kinds = self.config.get("layer_types")
        if kinds is None:
            step = int(self.config.get("sliding_window_pattern") or 6)
            local = [bool((layer + 1) % step) for layer in range(self.layers)]
        else:
            local = [kind == "sliding_attention" for kind in kinds]
        if len(local) != self.layers:
            raise ModelError("config.json: layer_types and num_hidden_layers differ in length")
        keys["attention.sliding_window_pattern"] = local
        if (cap := self.config.get("final_logit_softcapping")) is not None:
            keys["final_logit_softcapping"] = float(cap)
        # llama.cpp derives the scale of the queries: from the head, and for 62 layers the width.
        derived = self.width // self.heads if self.layers == 62 else self.head_dim
        if float(self.config["query_pre_attn_scalar"]) != derived:
            raise ModelError(
                "config.json: llama.cpp scales gemma3 queries by"
                f" {derived}, query_pre_attn_scalar is {self.config['query_pre_attn_scalar']}"
            )
        return keys


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a config.

    Raises:
        ModelError: none; the message names the architecture and lists those supported.
    """
    found = config.get("architectures")
    names = [str(name) for name in found] if isinstance(found, list) else []
    for family in FAMILIES:
        if any(name in family.architectures for name in names):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    given = ", ".join(names) or f"no architecture, model_type {config.get('model_type')!r}"
    raise ModelError(f"config.json: {given} is not supported; supported are {known}")


def read_layout(config: Mapping[str, Any]) -> Layout:
    """Family and numbers of a config, its text part where it has several.

    Raises:
        ModelError: an unsupported architecture or setting, a missing or impossible number.
    """
    family = find_family(config)
    try:
        layout = _read_layout(family, config)
        layout.metadata()  # has conditions of its own
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"config.json: is damaged: {error!r}") from error
    return layout


def _read_layout(family: Family, config: Mapping[str, Any]) -> Layout:
    text = config.get("text_config")
    values = {**family.defaults, **(text if isinstance(text, dict) else config)}
    for key, allowed in family.must.items():
        if key in values and values[key] not in allowed:
            raise ModelError(
                f"config.json: {family.arch} with {key} = {values[key]!r} is not supported"
            )
    if values.get("quantization_config"):
        raise ModelError("config.json: the weights are quantised already; use the original folder")
    heads = _number(values, "num_attention_heads")
    width = _number(values, "hidden_size")
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = heads
    if values.get("head_dim") is None:
        values["head_dim"] = width // heads
    kv_heads, head_dim = _number(values, "num_key_value_heads"), _number(values, "head_dim")
    if heads % kv_heads or head_dim % 2:
        raise ModelError(
            f"config.json: {heads} heads, {kv_heads} of keys, {head_dim} wide, do not fit together"
        )
    _number(values, "max_position_embeddings")
    if "vocab_size" in values:
        _number(values, "vocab_size", _LARGEST_VOCABULARY)
    return Layout(
        family=family, config=values, layers=_number(values, "num_hidden_layers", _MOST_LAYERS),
        width=width, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        hidden=_number(values, "intermediate_size"), eps=positive(values, "rms_norm_eps"),
        tied=bool(values.get("tie_word_embeddings", False)),
        rope=read_rope(values, family.local_base),
    )  # fmt: skip


def _number(values: Mapping[str, Any], key: str, most: int = 2**31 - 1) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ModelError(f"config.json: {key} = {value!r} is not a number from 1 to {most}")
    return value
