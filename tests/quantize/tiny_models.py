"""Tiny Hugging Face folders of every family, with random weights: made here, from nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

from uhlm_edge.quantize.convert.sample_text import SAMPLE_LINES

Weights = dict[str, NDArray[np.float32]]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTROL = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|stop|>")
TEXT = [*SAMPLE_LINES] * 3
"""What tokenizers are trained on: so much of it that whole words become tokens, and every rule of
cutting shows in the ids."""

_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}


def _split(rule: str) -> pre.PreTokenizer:
    if rule in RULES:
        pattern = Regex(_SHORT + RULES[rule] + _REST)
        return pre.Sequence(
            [pre.Split(pattern, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    words = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre.Sequence([pre.Digits(individual_digits=True), words]) if rule == "smollm" else words


@lru_cache
def byte_level(rule: str = "qwen2", size: int = 6000) -> str:
    """tokenizer.json of a byte-level BPE with one of llama.cpp's rules, as text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _split(rule)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(CONTROL),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer.to_str()


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece vocabulary: (text, score, kind), and whether a space goes in front."""

    rows: tuple[tuple[str, float, int], ...]
    prefix: bool

    def to_proto(self, model_type: int = 2) -> bytes:
        """The bytes of a tokenizer.model."""
        out = b""
        for text, score, kind in self.rows:
            raw = text.encode()
            piece = b"\x0a" + _varint(len(raw)) + raw + b"\x15" + struct.pack("<f", score)
            piece += b"\x18" + _varint(kind)
            out += b"\x0a" + _varint(len(piece)) + piece
        trainer = b"\x18" + _varint(model_type)
        normal = b"\x18" + _varint(int(self.prefix))
        return out + b"\x12" + _varint(len(trainer)) + trainer + b"\x1a" + _varint(2) + normal

    def to_json(self) -> str:
        """The tokenizer.json of the same pieces: a merge for every cut into two pieces."""
        ids = {text: i for i, (text, _, _) in enumerate(self.rows)}
        merges = [
            (-score, text[:n], text[n:])
            for text, score, kind in self.rows
            if kind == 1
            for n in range(1, len(text))
            if text[:n] in ids and text[n:] in ids
        ]
        merges.sort(key=lambda m: (m[0], ids[m[1]], ids[m[2]]))
        model = models.BPE(
            vocab=ids,
            merges=[(a, b) for _, a, b in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
        tokenizer = Tokenizer(model)
        steps = [normalizers.Prepend("▁")] if self.prefix else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
        tokenizer.add_special_tokens([t for t, _, kind in self.rows if kind in (2, 3)])
        tokenizer.add_tokens(
            [AddedToken(t, normalized=False) for t, _, kind in self.rows if kind == 4]
        )
        return tokenizer.to_str()


@lru_cache
def sentencepiece(prefix: bool = True, size: int = 900) -> Pieces:
    """Pieces as a SentencePiece BPE of that size has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.Metaspace(prepend_scheme="always" if prefix else "never")
    trainer = trainers.BpeTrainer(vocab_size=size - 270, show_progress=False)
    tokenizer.train_from_iterator(TEXT[:22], trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    rows = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<turn>", 0.0, 3)]
    rows += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    rows += [("<h1>", 0.0, 4), ("</h1>", 0.0, 4), ("\n\n", 0.0, 4)]
    longer = sorted((t for t in vocab if len(t) > 1), key=lambda t: vocab[t])
    rows += [(text, -float(rank), 1) for rank, text in enumerate(longer)]
    rows += [(text, -float(len(longer)), 1) for text in sorted(t for t in vocab if len(t) == 1)]
    return Pieces(tuple(rows), prefix)


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@dataclass
class Folder:
    """A model folder to be written: config, weights and tokenizer."""

    config: dict[str, Any]
    weights: Weights
    tokenizer: str = ""
    proto: bytes = b""
    settings: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path, dtype: str = "F32", shards: int = 1) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(self.config))
        if self.tokenizer:
            (path / "tokenizer.json").write_text(self.tokenizer, encoding="utf-8")
        if self.proto:
            (path / "tokenizer.model").write_bytes(self.proto)
        (path / "tokenizer_config.json").write_text(json.dumps(self.settings))
        if self.generation:
            (path / "generation_config.json").write_text(json.dumps(self.generation))
        names = list(self.weights)
        if shards == 1:
            write_safetensors(path / "model.safetensors", self.weights, dtype)
            return path
        places: dict[str, str] = {}
        for n in range(shards):
            file = f"model-{n + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: self.weights[name] for name in names[n::shards]}
            write_safetensors(path / file, part, dtype)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": places}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        return path


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]], dtype: str) -> None:
    """The format by hand: length, JSON, data. BF16 is cut, not rounded."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name, values in tensors.items():
        if dtype == "BF16":
            blob = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            blob = values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [at, at + len(blob)],
        }
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}


def make(
    family: str,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    hidden: int = 96,
    tied: bool = False,
    extra_rows: int = 8,
    seed: int = 0,
    **config: Any,
) -> Folder:
    """A folder of a family. More keys go into its config; `extra_rows` pads the embedding."""
    spm = family == "gemma3" or config.pop("spm", False)
    pieces = sentencepiece(prefix=family != "gemma3")
    text = pieces.to_json() if spm else byte_level(config.pop("rule", "qwen2"))
    rows = max(Tokenizer.from_str(text).get_vocab(with_added_tokens=True).values()) + 1 + extra_rows
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": hidden,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "vocab_size": rows,
    }
    if family == "gemma3":
        values |= {
            "model_type": "gemma3_text",
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 8,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": head_dim,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10000.0,
        }
    else:
        values["hidden_act"] = "silu"
    values |= config
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    }
    if not spm:
        settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    settings["chat_template"] = TEMPLATE
    weights = _weights(family, values, np.random.default_rng(seed))
    return Folder(values, weights, text, settings=settings)


def _weights(family: str, config: Mapping[str, Any], random: np.random.Generator) -> Weights:
    width, hidden, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    def norm(size: int) -> NDArray[np.float32]:
        around = 0.0 if family == "gemma3" else 1.0
        return (around + random.normal(0, 0.2, size)).astype(np.float32)

    weights: Weights = {"model.embed_tokens.weight": matrix(config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        weights |= {
            f"{at}input_layernorm.weight": norm(width),
            f"{at}self_attn.q_proj.weight": matrix(queries, width),
            f"{at}self_attn.k_proj.weight": matrix(keys, width),
            f"{at}self_attn.v_proj.weight": matrix(keys, width),
            f"{at}self_attn.o_proj.weight": matrix(width, queries),
            f"{at}post_attention_layernorm.weight": norm(width),
            f"{at}mlp.gate_proj.weight": matrix(hidden, width),
            f"{at}mlp.up_proj.weight": matrix(hidden, width),
            f"{at}mlp.down_proj.weight": matrix(width, hidden),
        }
        if family == "qwen2" or config.get("attention_bias"):
            for name, size in (("q", queries), ("k", keys), ("v", keys)):
                weights[f"{at}self_attn.{name}_proj.bias"] = norm(size)
        if family == "llama" and config.get("attention_bias"):
            weights[f"{at}self_attn.o_proj.bias"] = norm(width)
        if family in ("qwen3", "gemma3"):
            weights[f"{at}self_attn.q_norm.weight"] = norm(head)
            weights[f"{at}self_attn.k_norm.weight"] = norm(head)
        if family == "gemma3":
            weights[f"{at}pre_feedforward_layernorm.weight"] = norm(width)
            weights[f"{at}post_feedforward_layernorm.weight"] = norm(width)
    weights["model.norm.weight"] = norm(width)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], width)
    return weights


def ids_of(folder: Folder, count: int, seed: int = 1) -> list[int]:
    """Random ids of the folder's vocabulary."""
    random = np.random.default_rng(seed)
    return [
        int(i) for i in random.integers(8, len(folder.weights["model.embed_tokens.weight"]), count)
    ]
