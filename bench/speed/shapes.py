"""Models with the exact shape of real ones and random weights, to measure speed with no download.

Time and memory of a model depend on its shape and its quantisation, not on what it has learnt.
The mix of tensor types is llama.cpp's own: a hollow F16 file (a sparse file of zeros) goes
through its quantiser, which decides the types; then the data are overwritten with random blocks
that decode to finite numbers. What such a model writes is noise, and its name says so.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from ...common.errors import UsageError
from ...common.files import atomic_output, require_space
from ...lm.gguf.check import check
from ...lm.gguf.types import ARRAY, STRING
from ...quantize.quant_types import QUANT_TYPES
from .blocks import random_tile

__all__ = ["SHAPES", "Shape", "cache_folder", "make_shape", "write_hollow"]

ALIGNMENT = 32
TILE = 1 << 20
F32, F16 = 0, 1
U32, I32, FLOAT = 4, 5, 6
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

Quantiser = Callable[[Path, Path, str], None]


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model, as in its published config.json."""

    name: str
    arch: Literal["llama", "qwen2", "gemma3"]
    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    """Width of one head; heads x head need not be the width (Gemma)."""
    ffn: int
    vocab: int
    context: int
    rope: float
    eps: float
    tied: bool
    """Whether the embedding is the output matrix too."""
    window: int | None = None
    rope_factors: bool = False

    @property
    def parameters(self) -> int:
        """How many weights all tensors hold."""
        return sum(_size(dims) for _, dims in self.tensors())

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and dimensions, the one that lies together in memory first."""
        width, q, kv = self.width, self.heads * self.head, self.kv_heads * self.head
        yield "token_embd.weight", (width, self.vocab)
        for i in range(self.layers):
            block = f"blk.{i}."
            yield block + "attn_norm.weight", (width,)
            for letter, size in (("q", q), ("k", kv), ("v", kv)):
                yield f"{block}attn_{letter}.weight", (width, size)
                if self.arch == "qwen2":
                    yield f"{block}attn_{letter}.bias", (size,)
            yield block + "attn_output.weight", (q, width)
            if self.arch == "gemma3":
                yield block + "attn_q_norm.weight", (self.head,)
                yield block + "attn_k_norm.weight", (self.head,)
                yield block + "post_attention_norm.weight", (width,)
                yield block + "post_ffw_norm.weight", (width,)
            yield block + "ffn_norm.weight", (width,)
            yield block + "ffn_gate.weight", (width, self.ffn)
            yield block + "ffn_up.weight", (width, self.ffn)
            yield block + "ffn_down.weight", (self.ffn, width)
        yield "output_norm.weight", (width,)
        if not self.tied:
            yield "output.weight", (width, self.vocab)
        if self.rope_factors:
            yield "rope_freqs.weight", (self.head // 2,)


# Dimensions as in the models' published config.json.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tinyllama-1.1b", "llama", 22, 2048, 32, 4, 64, 5632, 32_000, 2048, 1e4, 1e-5, False),
        Shape("llama-2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32_000, 4096, 1e4, 1e-5, False),
        Shape("qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151_936, 32_768, 1e6, 1e-6, True),
        Shape(
            "llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128_256, 131_072, 5e5, 1e-5, True,
            rope_factors=True,
        ),
        Shape("smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49_152, 8192, 1e5, 1e-5, True),
        Shape(
            "gemma-3-270m", "gemma3", 18, 640, 4, 1, 256, 2048, 262_144, 32_768, 1e6, 1e-6, True,
            window=512,
        ),
    )
}  # fmt: skip


def cache_folder() -> Path:
    """Where models made here are kept: under XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "uhlm-edge" / "shapes"


def make_shape(
    name: str,
    quantisation: str = "Q4_K_M",
    folder: Path | None = None,
    quantiser: Quantiser | None = None,
) -> Path:
    """The random-weight model of that name, from the cache or made now (seconds to a minute).

    Raises:
        UsageError: no such shape or quantisation.
        ResourceError: no room on the disk.
    """
    if name not in SHAPES:
        raise UsageError(f"no shape {name!r}; there are {', '.join(SHAPES)}")
    if quantisation not in QUANT_TYPES:
        raise UsageError(f"no quantisation {quantisation!r}; try Q4_K_M, Q4_0, Q8_0 or F16")
    shape = SHAPES[name]
    folder = cache_folder() if folder is None else folder
    path = folder / f"{name}.random-weights.{quantisation}.gguf"
    if path.exists():
        return path
    if quantiser is None:
        from ...quantize.llama_quantize import quantize

        quantiser = quantize
    folder.mkdir(parents=True, exist_ok=True)
    # The hollow file is a hole; Q4_K_M takes up to 0.95 bytes a weight with a large vocabulary.
    require_space(folder, int(shape.parameters * (2.1 if "F16" in quantisation else 1.1)))
    with atomic_output(path) as part:
        hollow = part.with_suffix(".hollow")
        try:
            with hollow.open("wb") as file:
                write_hollow(file, shape)
            quantiser(hollow, part, quantisation)
        finally:
            hollow.unlink(missing_ok=True)
        _fill(part)
    return path


def write_hollow(file: BinaryIO, shape: Shape) -> None:
    """Write the F16 GGUF of a shape, all data zero: a header, then a hole."""
    tensors = list(shape.tensors())
    pairs = _metadata(shape)
    head = BytesIO()
    head.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)))
    for key, kind, payload in pairs:
        head.write(_string(key) + struct.pack("<I", kind) + payload)
    offset = 0
    for name, dims in tensors:
        flat = len(dims) == 1  # norms and biases stay F32, as converters leave them
        head.write(_string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        head.write(struct.pack("<IQ", F32 if flat else F16, offset))
        offset += _padded(_size(dims) * (4 if flat else 2))
    header = head.getvalue()
    file.write(header.ljust(_padded(len(header)), b"\0"))
    file.truncate(_padded(len(header)) + offset)


def _fill(path: Path, seed: int = 0) -> None:
    """Overwrite the data of a GGUF file with random blocks, a MiB at a time."""
    header = check(path)
    tiles: dict[str, bytes] = {}
    with path.open("r+b") as file:
        for tensor in header.tensors:
            file.seek(tensor.offset)
            if tensor.type == "F32":
                value = 0.0 if tensor.name.endswith(".bias") else 1.0
                file.write(struct.pack("<f", value) * tensor.n_elements)
                continue
            if tensor.type not in tiles:
                tiles[tensor.type] = random_tile(tensor.type, TILE, seed)
            tile, left = tiles[tensor.type], tensor.n_bytes
            while left > 0:
                left -= file.write(tile[:left])


def _metadata(shape: Shape) -> list[tuple[str, int, bytes]]:
    arch = shape.arch
    pairs: list[tuple[str, int, bytes]] = []

    def text(key: str, value: str) -> None:
        pairs.append((key, STRING, _string(value)))

    def number(key: str, value: int) -> None:
        pairs.append((key, U32, struct.pack("<I", value)))

    def real(key: str, value: float) -> None:
        pairs.append((key, FLOAT, struct.pack("<f", value)))

    def array(key: str, kind: int, items: int, payload: bytes) -> None:
        pairs.append((key, ARRAY, struct.pack("<IQ", kind, items) + payload))

    text("general.architecture", arch)
    text("general.name", f"{shape.name} shape, RANDOM WEIGHTS (for speed only)")
    number("general.file_type", F16)
    number(f"{arch}.block_count", shape.layers)
    number(f"{arch}.context_length", shape.context)
    number(f"{arch}.embedding_length", shape.width)
    number(f"{arch}.feed_forward_length", shape.ffn)
    number(f"{arch}.attention.head_count", shape.heads)
    number(f"{arch}.attention.head_count_kv", shape.kv_heads)
    number(f"{arch}.attention.key_length", shape.head)
    number(f"{arch}.attention.value_length", shape.head)
    real(f"{arch}.attention.layer_norm_rms_epsilon", shape.eps)
    real(f"{arch}.rope.freq_base", shape.rope)
    if arch == "llama":
        number("llama.rope.dimension_count", shape.head)
        number("llama.vocab_size", shape.vocab)
    if shape.window is not None:
        number(f"{arch}.attention.sliding_window", shape.window)
    tokens, kinds = _vocabulary(shape.vocab)
    text("tokenizer.ggml.model", "llama")
    array("tokenizer.ggml.tokens", STRING, len(tokens), b"".join(map(_string, tokens)))
    scores = struct.pack(f"<{len(tokens)}f", *(-float(i) for i in range(len(tokens))))
    array("tokenizer.ggml.scores", FLOAT, len(tokens), scores)
    array("tokenizer.ggml.token_type", I32, len(tokens), struct.pack(f"<{len(kinds)}i", *kinds))
    number("tokenizer.ggml.unknown_token_id", 0)
    number("tokenizer.ggml.bos_token_id", 1)
    number("tokenizer.ggml.eos_token_id", 2)
    return pairs


def _vocabulary(size: int) -> tuple[list[str], list[int]]:
    """Made-up pieces: three marks, the 256 bytes, then words that are all different."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [UNKNOWN, CONTROL, CONTROL, *([BYTE] * 256)]
    tokens += [f"\u2581w{i}" for i in range(len(tokens), size)]
    return tokens, kinds + [NORMAL] * (size - len(kinds))


def _string(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _size(dims: tuple[int, ...]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
