"""Models with the exact shape of real ones and random weights, to measure speed with no download.

Time and memory of a model depend on its shape and its quantisation, not on what it has learnt.
The mix of tensor types is llama.cpp's own: a hollow F16 file (a sparse file of zeros) goes
through its quantiser, which decides the types; then the data are overwritten with random blocks
that decode to finite numbers. What such a model writes is noise, and its name says so.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...common.errors import UsageError
from ...common.files import atomic_output, require_space
from ...lm.gguf.check import check
from ...lm.vocabulary import Kind
from ...quantize.convert.families import FAMILIES, Layout
from ...quantize.convert.rope import Rope
from ...quantize.convert.writer import PlannedTensor, add_key, write_hollow
from ...quantize.quant_types import QUANT_TYPES
from .blocks import random_tile

TILE = 1 << 20

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
        return sum(math.prod(dims) for _, dims in self.tensors())

    @property
    def layout(self) -> Layout:
        """The same, as it is read from the model's config.json."""
        family = next(family for family in FAMILIES if family.arch == self.arch)
        return Layout(
            family=family, layers=self.layers, width=self.width, heads=self.heads,
            kv_heads=self.kv_heads, head_dim=self.head, hidden=self.ffn, eps=self.eps,
            tied=self.tied, rope=Rope(self.rope, "default", {}, self.context, family.local_base),
            config={"sliding_window": self.window, "query_pre_attn_scalar": self.head},
        )  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes (rows, columns)."""
        layout = self.layout
        yield "token_embd.weight", (self.vocab, self.width)
        for layer in range(self.layers):
            yield from layout.layer_shapes(layer).items()
        yield "output_norm.weight", (self.width,)
        if not self.tied:
            yield "output.weight", (self.vocab, self.width)
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
            _write_hollow(hollow, shape)
            quantiser(hollow, part, quantisation)
        finally:
            hollow.unlink(missing_ok=True)
        _fill(part)
    return path


def _write_hollow(path: Path, shape: Shape) -> None:
    """Write the F16 GGUF of a shape, all data zero."""
    import gguf

    writer = gguf.GGUFWriter(path, shape.arch)
    for key, value in _metadata(shape).items():
        add_key(writer, key, value)
    # Norms and biases stay F32, as converters leave them.
    tensors = [
        PlannedTensor(name, "F32" if len(dims) == 1 else "F16", dims, name)
        for name, dims in shape.tensors()
    ]
    write_hollow(writer, tensors)


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


def _metadata(shape: Shape) -> dict[str, object]:
    tokens, kinds = _vocabulary(shape.vocab)
    found = {**shape.layout.metadata(), "vocab_size": shape.vocab}
    return {
        "general.name": f"{shape.name} shape, RANDOM WEIGHTS (for speed only)",
        "general.file_type": 1,  # F16
        **{f"{shape.arch}.{key}": value for key, value in found.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _vocabulary(size: int) -> tuple[list[str], list[int]]:
    """Made-up pieces: three marks, the 256 bytes, then words that are all different."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [Kind.UNKNOWN, Kind.CONTROL, Kind.CONTROL, *([Kind.BYTE] * 256)]
    tokens += [f"\u2581w{i}" for i in range(len(tokens), size)]
    kinds += [Kind.NORMAL] * (size - len(kinds))
    return tokens, list(map(int, kinds))
