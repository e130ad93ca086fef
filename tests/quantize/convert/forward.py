"""What a model of each family computes, in numpy: the measure that converted files are held to.

Written from the model cards and papers in the convention of Hugging Face weights, sharing no line
with the conversion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logits(
    config: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]],
    ids: Sequence[int],
    half_gelu: bool = True,
) -> Array:
    """Logits after each id, shape (n, V), in float64.

    `half_gelu` rounds GELU's input and output to float16, as ggml's table does.
    """
    gemma = "gemma3" in config["model_type"]
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    eps, head = config["rms_norm_eps"], config["head_dim"]

    def norm(x: Array, name: str) -> Array:
        scale = w[name] + 1.0 if gemma else w[name]
        result: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale
        return result

    def linear(x: Array, name: str) -> Array:
        y: Array = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    x = w["model.embed_tokens.weight"][list(ids)]
    if gemma:
        x = x * math.sqrt(config["hidden_size"])
    n = len(ids)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        local = gemma and (layer + 1) % config["sliding_window_pattern"] != 0
        h = norm(x, f"{at}input_layernorm.weight")
        q, k, v = (
            linear(h, f"{at}self_attn.{part}_proj").reshape(n, -1, head).swapaxes(0, 1)
            for part in "qkv"
        )
        if f"{at}self_attn.q_norm.weight" in w:
            q = norm(q, f"{at}self_attn.q_norm.weight")
            k = norm(k, f"{at}self_attn.k_norm.weight")
        frequency, factor = _frequencies(config, local)
        q, k = (_rotate(part, frequency, factor) for part in (q, k))
        repeat = len(q) // len(k)
        k, v = np.repeat(k, repeat, 0), np.repeat(v, repeat, 0)
        scale = config.get("query_pre_attn_scalar", head) ** -0.5
        scores = q @ k.swapaxes(1, 2) * scale
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        hidden = (distance < 0) | (local and (distance >= config["sliding_window"]))
        mixed = _softmax(np.where(hidden, -np.inf, scores)) @ v
        h = linear(mixed.swapaxes(0, 1).reshape(n, -1), f"{at}self_attn.o_proj")
        if gemma:
            h = norm(h, f"{at}post_attention_layernorm.weight")
        x = x + h
        before = "pre_feedforward" if gemma else "post_attention"
        h = norm(x, f"{at}{before}_layernorm.weight")
        gate = linear(h, f"{at}mlp.gate_proj")
        gate = _gelu(gate, half_gelu) if gemma else gate / (1 + np.exp(-gate))
        h = linear(gate * linear(h, f"{at}mlp.up_proj"), f"{at}mlp.down_proj")
        if gemma:
            h = norm(h, f"{at}post_feedforward_layernorm.weight")
        x = x + h
    head_weight = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    if config["tie_word_embeddings"]:
        head_weight = w["model.embed_tokens.weight"]
    result: Array = norm(x, "model.norm.weight") @ head_weight.T
    return result


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    result: Array = e / e.sum(-1, keepdims=True)
    return result


def _gelu(x: Array, half: bool) -> Array:
    at = x.astype(np.float16).astype(np.float64) if half else x
    y: Array = 0.5 * at * (1 + np.tanh(math.sqrt(2 / math.pi) * (at + 0.044715 * at**3)))
    if not half:
        return y
    rounded = y.astype(np.float16).astype(np.float64)
    return np.where(x <= -10, 0.0, np.where(x >= 10, x, rounded))


def _rotate(x: Array, frequency: Array, factor: float) -> Array:
    """The first half of a head against its second, x of shape (heads, n, d)."""
    angle = np.arange(x.shape[1])[:, None] * frequency
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _frequencies(config: Mapping[str, Any], local: bool) -> tuple[Array, float]:
    """Angular frequencies, shape (d/2,), and what queries and keys are multiplied by."""
    d = config["head_dim"]
    if local:
        near: Array = config["rope_local_base_freq"] ** (-np.arange(0, d, 2) / d)
        return near, 1.0
    base = config["rope_theta"]
    plain: Array = base ** (-np.arange(0, d, 2) / d)
    scaling = config.get("rope_scaling") or {}
    kind, factor = scaling.get("rope_type", "default"), scaling.get("factor", 1.0)
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        # Llama 3.1: waves longer than old/low are divided, shorter than old/high are kept
        old, low, high = (
            scaling[key]
            for key in (
                "original_max_position_embeddings",
                "low_freq_factor",
                "high_freq_factor",
            )
        )
        out = []
        for f in plain:
            wave = 2 * math.pi / f
            if wave < old / high:
                out.append(f)
            elif wave > old / low:
                out.append(f / factor)
            else:
                smooth = (old / wave - low) / (high - low)
                out.append((1 - smooth) * f / factor + smooth * f)
        return np.array(out), 1.0
    if kind == "yarn":
        old = scaling["original_max_position_embeddings"]

        def dimension(turns: float) -> float:
            at: float = d * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(base))
            return at

        first = max(math.floor(dimension(scaling.get("beta_fast", 32))), 0)
        last = min(math.ceil(dimension(scaling.get("beta_slow", 1))), d - 1)
        ramp = np.clip((np.arange(d // 2) - first) / max(last - first, 0.001), 0, 1)
        attention = scaling.get("attention_factor") or 0.1 * math.log(factor) + 1
        return plain / factor * ramp + plain * (1 - ramp), attention
    return plain, 1.0
