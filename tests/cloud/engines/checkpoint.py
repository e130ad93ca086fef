"""A shipped model as other engines take it: a folder with config.json, weights and a tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from uhlm_edge.models import shipped

from ...quantize.tiny_models import Folder

_CONTROL = 3  # GGUF's kind of a token that is no text
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def as_checkpoint(name: str, folder: Path) -> Path:
    """Write a shipped model (llama, tied head, byte-level BPE) into `folder` as 32-bit floats.

    The numbers are those that its quantised weights stand for, as in a GGUF file of type ALL_F32.
    """
    reader = GGUFReader(shipped.path_of(name))

    def told(key: str) -> int | float:
        value: int | float = reader.fields[f"llama.{key}"].contents()
        return value

    heads = {"attn_q": told("attention.head_count"), "attn_k": told("attention.head_count_kv")}
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.startswith("blk."):
            _, layer, kind, _ = tensor.name.split(".")
            if kind in heads:  # GGUF has the two halves that rotate together side by side
                pairs = values.reshape(int(heads[kind]), -1, 2, values.shape[-1])
                values = pairs.swapaxes(1, 2).reshape(values.shape)
            weights[f"model.layers.{layer}.{_LAYER[kind]}.weight"] = values
        else:
            names = {"token_embd": "embed_tokens", "output_norm": "norm"}
            weights[f"model.{names[tensor.name.removesuffix('.weight')]}.weight"] = values
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": told("embedding_length"),
        "intermediate_size": told("feed_forward_length"),
        "num_hidden_layers": told("block_count"),
        "num_attention_heads": heads["attn_q"],
        "num_key_value_heads": heads["attn_k"],
        "head_dim": told("rope.dimension_count"),
        "max_position_embeddings": told("context_length"),
        "rms_norm_eps": told("attention.layer_norm_rms_epsilon"),
        "rope_theta": told("rope.freq_base"),
        "vocab_size": told("vocab_size"),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    return Folder(config, weights, _tokenizer(reader)).write(folder)


def _tokenizer(reader: GGUFReader) -> str:
    """For showing texts: prompts come as ids."""
    texts, merges, kinds = (
        reader.fields[f"tokenizer.ggml.{key}"].contents()
        for key in ("tokens", "merges", "token_type")
    )
    pairs = [(a, b) for a, b in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = [text for text, kind in zip(texts, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in control])
    return tokenizer.to_str()
