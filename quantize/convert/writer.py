"""Writing the GGUF: keys, then tensors, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...common.errors import ModelError
from .checkpoint import Checkpoint
from .families import Layout
from .tokenizer import TokenizerData

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do (both in bytes) and what is at work."""

DTYPES = ("F16", "BF16", "F32")
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_SPECIAL_KEYS = {
    "bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "pad": "padding",
}  # fmt: skip


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor to write: its GGUF name, element type and shape, and where it comes from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str | NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * _ITEM_BYTES[self.dtype]


def write_gguf(
    path: Path,
    checkpoint: Checkpoint,
    layout: Layout,
    tokenizer: TokenizerData,
    tensors: Sequence[PlannedTensor],
    dtype: str,
    progress: Progress | None = None,
    outline: bool = False,
) -> None:
    """Write keys and tensors to `path`.

    With `outline` no weight is read, and there is a hole where they would be: see `write_hollow`.

    Raises:
        ModelError: a tensor is damaged, or does not fit the element type.
        OSError: the disk is full, or refuses.
    """
    import gguf

    writer = gguf.GGUFWriter(path, layout.family.arch)
    _add_metadata(writer, checkpoint, layout, tokenizer, dtype)
    if outline:
        write_hollow(writer, tensors)
        return
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    with closing(writer):
        stream = _begin(writer, tensors)
        for tensor in tensors:
            start = stream.tell()
            for block in _blocks(checkpoint, layout, tensor):
                stream.write(block.tobytes())
                done += block.nbytes
                if progress is not None:
                    progress(done, total, tensor.name)
            if stream.tell() - start != tensor.nbytes:
                raise ModelError(f"{tensor.name}: its size is not what its shape says")
            writer.write_padding(stream, tensor.nbytes)


def write_hollow(writer: Any, tensors: Sequence[PlannedTensor]) -> None:
    """Write what a `gguf.GGUFWriter` was told, and a hole of the weights' size; closes it.

    The hole takes no room on the disk, and is enough to predict the size of any quantisation.
    """
    with closing(writer):
        stream = _begin(writer, tensors)
        padded = (writer.ggml_pad(t.nbytes, writer.data_alignment) for t in tensors)
        stream.truncate(stream.tell() + sum(padded))


def _begin(writer: Any, tensors: Sequence[PlannedTensor]) -> BinaryIO:
    """Write keys and the places of tensors; the file where the first one begins."""
    import gguf

    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.dtype]
        # the element type given is the raw one; any but uint8 leaves the shape as it is
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    stream: BinaryIO
    (stream,) = writer.fout
    writer.write_padding(stream, stream.tell())
    return stream


def _blocks(
    checkpoint: Checkpoint, layout: Layout, tensor: PlannedTensor
) -> Iterator[NDArray[Any]]:
    """The bytes of one tensor as they go into the file."""
    if not isinstance(tensor.source, str):
        yield tensor.source
        return
    offset = layout.offset(tensor.name)
    for block in checkpoint.blocks(tensor.source, layout.row_order(tensor.name)):
        if offset:
            block = block + np.float32(offset)
        yield _narrow(block, tensor.dtype, tensor.source)


def _narrow(block: NDArray[np.float32], dtype: str, name: str) -> NDArray[Any]:
    """float32 as F32, F16 or BF16 (rounded to even, as uint16)."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = block.astype("<f2")
        if not np.isfinite(half).all():
            raise ModelError(f"tensor {name} holds weights too large for F16; convert to BF16")
        return half
    if dtype == "BF16":
        bits = block.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return block.astype("<f4", copy=False)


def _add_metadata(
    writer: Any, checkpoint: Checkpoint, layout: Layout, tokenizer: TokenizerData, dtype: str
) -> None:
    """All keys: name, numbers of the family, vocabulary."""
    arch = layout.family.arch
    writer.add_string("general.name", checkpoint.folder.resolve().name)
    writer.add_string("general.type", "model")
    writer.add_uint32("general.file_type", _FILE_TYPES[dtype])
    writer.add_uint32("general.quantization_version", 2)
    for key, value in {**layout.metadata(), "vocab_size": len(tokenizer.tokens)}.items():
        add_key(writer, f"{arch}.{key}", value)
    add_key(writer, "tokenizer.ggml.model", tokenizer.model)
    add_key(writer, "tokenizer.ggml.pre", tokenizer.pre)
    writer.add_array("tokenizer.ggml.tokens", [t.encode("utf-8") for t in tokenizer.tokens])
    writer.add_array("tokenizer.ggml.token_type", [int(kind) for kind in tokenizer.kinds])
    if tokenizer.scores:
        writer.add_array("tokenizer.ggml.scores", [float(score) for score in tokenizer.scores])
    if tokenizer.merges:
        writer.add_array("tokenizer.ggml.merges", list(tokenizer.merges))
    for name, token in tokenizer.special.items():
        add_key(writer, f"tokenizer.ggml.{_SPECIAL_KEYS[name]}_token_id", token)
    add_key(writer, "tokenizer.ggml.add_bos_token", tokenizer.add_bos)
    add_key(writer, "tokenizer.ggml.add_eos_token", tokenizer.add_eos)
    if tokenizer.model == "llama":
        add_key(writer, "tokenizer.ggml.add_space_prefix", tokenizer.space_prefix)
    add_key(writer, "tokenizer.chat_template", tokenizer.template)


def add_key(writer: Any, key: str, value: object) -> None:
    """Tell a `gguf.GGUFWriter` one key, its type taken from the value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, str(value))
