"""Hugging Face folder -> GGUF, a block of rows at a time.

The order of work: everything that can be refused is refused before a tensor is written. The header
is made, the vocabulary is tried in llama.cpp against `tokenizers`, the disk is asked for its room,
and only then the tensors are streamed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..lm.errors import ModelError, UsageError
from .atomic import atomic_output, free_bytes, require_space
from .checkpoint import Checkpoint
from .families import Layout, read_layout
from .tokenizer import TokenizerData, read_tokenizer, reference_tokenizer

__all__ = ["DTYPES", "Converted", "Progress", "convert"]

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do (both in bytes) and what is at work."""

DTYPES = ("F16", "BF16", "F32")
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_SPECIAL_KEYS = {
    "bos": "bos",
    "eos": "eos",
    "eot": "eot",
    "eom": "eom",
    "unk": "unknown",
    "pad": "padding",
}
_HEADER_ROOM = 64 << 20
_IGNORED = ("rotary_emb.inv_freq", "vision_tower.", "multi_modal_projector.")


@dataclass(frozen=True)
class Converted:
    """What came out: the file, its family, its size, and how many ids were compared."""

    path: Path
    arch: str
    nbytes: int
    ids_compared: int


@dataclass(frozen=True)
class _Plan:
    """One tensor to write: its GGUF name, element type and shape, and where it comes from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str | NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * _ITEM_BYTES[self.dtype]


def convert(
    src: Path,
    out: Path,
    dtype: str = "F16",
    progress: Progress | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> Converted:
    """Write the model in folder `src` to the GGUF `out`.

    Args:
        src: a Hugging Face folder with config.json, safetensors and a tokenizer.
        out: the file to write; what was there is replaced at the end, or stays.
        dtype: of the matrices: F16, BF16 or F32. Vectors are F32 always.
        progress: told after each block.
        free: bytes free on a folder's disk.

    Raises:
        UsageError: an unknown dtype.
        ModelError: the folder cannot be converted, or its ids come out different.
        ResourceError: the disk has no room.
    """
    if dtype not in DTYPES:
        raise UsageError(f"{dtype} is no type to convert to; {', '.join(DTYPES)} are")
    checkpoint = Checkpoint(src)
    layout = read_layout(checkpoint.config)
    plans = _plan(checkpoint, layout, dtype)
    rows = plans[0].shape[0]
    tokenizer = read_tokenizer(checkpoint).padded(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, sum(plan.nbytes for plan in plans) + _HEADER_ROOM, free)
    compared, tokenizer = _try_vocabulary(checkpoint, layout, tokenizer, out.parent)
    with atomic_output(out) as part:
        _write(part, checkpoint, layout, tokenizer, plans, dtype, progress)
        nbytes = part.stat().st_size
    return Converted(out, layout.family.arch, nbytes, compared)


def _plan(checkpoint: Checkpoint, layout: Layout, dtype: str) -> list[_Plan]:
    """The tensors to write, the embedding first.

    Raises:
        ModelError: one is missing, has another shape, or is not known.
    """
    names = _gguf_names(checkpoint, layout)
    embedding = names.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{checkpoint.folder}: the tensor model.embed_tokens.weight is missing")
    rows = checkpoint.tensors[embedding].shape[0]
    wanted: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (rows, layout.width),
        "output_norm.weight": (layout.width,),
    }
    if not layout.tied:
        wanted["output.weight"] = (rows, layout.width)
    optional: dict[str, tuple[int, ...]] = {}
    for layer in range(layout.layers):
        wanted |= layout.layer_shapes(layer)
        optional |= layout.layer_shapes(layer, optional=True)
    plans: list[_Plan] = []
    for name, shape in (wanted | optional).items():
        source = names.pop(name, None)
        if source is None:
            if name in wanted:
                raise ModelError(f"{checkpoint.folder}: the tensor for {name} is missing")
            continue
        found = checkpoint.tensors[source].shape
        if found != shape:
            raise ModelError(
                f"{checkpoint.folder}: tensor {source} has shape {found}, config.json says {shape}"
            )
        plans.append(_Plan(name, dtype if len(shape) > 1 else "F32", shape, source))
    names.pop("output.weight", None)  # a copy of the embedding, where the config says tied
    if names:
        raise ModelError(
            f"{checkpoint.folder}: tensor {next(iter(names.values()))} has no place in"
            f" {layout.family.arch}"
        )
    factors = layout.rope.frequency_factors(layout.head_dim)
    if factors is not None:
        plans.append(_Plan("rope_freqs.weight", "F32", factors.shape, factors))
    return plans


def _gguf_names(checkpoint: Checkpoint, layout: Layout) -> dict[str, str]:
    """GGUF name -> name in the folder.

    Raises:
        ModelError: a tensor that the family does not know.
    """
    import gguf

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.family.arch)
    known = gguf.get_tensor_name_map(arch, layout.layers)
    names: dict[str, str] = {}
    for source in checkpoint.tensors:
        if any(part in source for part in _IGNORED):
            continue
        plain = source.replace("language_model.", "", 1)
        plain = plain if plain.startswith(("model.", "lm_head.")) else f"model.{plain}"
        name = known.get_name(plain, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"{checkpoint.folder}: tensor {source} has no place in {layout.family.arch}"
            )
        names[name] = source
    return names


def _try_vocabulary(
    checkpoint: Checkpoint, layout: Layout, tokenizer: TokenizerData, folder: Path
) -> tuple[int, TokenizerData]:
    """Have llama.cpp read the vocabulary and compare its ids with the model's own tokenizer.

    Ids that must end a text and that llama.cpp does not know by their name are put into its keys
    for further end ids.

    Raises:
        ModelError: the ids differ, or there are more such end ids than keys.
    """
    from .llama_tokens import compare_ids, missing_ends, open_vocabulary

    reference = reference_tokenizer(checkpoint)
    with tempfile.TemporaryDirectory(prefix=".vocabulary-", dir=folder) as scratch:
        path = Path(scratch) / "vocabulary.gguf"
        _write(path, checkpoint, layout, tokenizer, [], "F32", None)
        with open_vocabulary(path) as vocab:
            missing = missing_ends(vocab, tokenizer.end_ids)
            compared = compare_ids(vocab, reference)
        if missing:
            tokenizer = tokenizer.with_ends(missing)
            _write(path, checkpoint, layout, tokenizer, [], "F32", None)
            with open_vocabulary(path) as vocab:
                missing = missing_ends(vocab, tokenizer.end_ids)
    if missing:
        raise ModelError(f"{checkpoint.folder}: id {missing[0]} would not end a text in llama.cpp")
    return compared, tokenizer


def _write(
    path: Path,
    checkpoint: Checkpoint,
    layout: Layout,
    tokenizer: TokenizerData,
    plans: list[_Plan],
    dtype: str,
    progress: Progress | None,
) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, layout.family.arch)
    _add_metadata(writer, checkpoint, layout, tokenizer, dtype)
    for plan in plans:
        kind = gguf.GGMLQuantizationType[plan.dtype]
        # the element type given is the raw one; any but uint8 leaves the shape as it is
        writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), plan.nbytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        stream = writer.fout[0]
        writer.write_padding(stream, stream.tell())
        total, done = sum(plan.nbytes for plan in plans), 0
        for plan in plans:
            start = stream.tell()
            for block in _blocks(checkpoint, layout, plan):
                stream.write(block.tobytes())
                done += block.nbytes
                if progress is not None:
                    progress(done, total, plan.name)
            if stream.tell() - start != plan.nbytes:
                raise ModelError(f"{plan.name}: its size is not what its shape says")
            writer.write_padding(stream, plan.nbytes)
    finally:
        writer.close()


def _blocks(checkpoint: Checkpoint, layout: Layout, plan: _Plan) -> Iterator[NDArray[Any]]:
    """The bytes of one tensor as they go into the file."""
    if not isinstance(plan.source, str):
        yield plan.source
        return
    offset = layout.offset(plan.name)
    for block in checkpoint.blocks(plan.source, layout.row_order(plan.name)):
        if offset:
            block = block + np.float32(offset)
        yield _narrow(block, plan.dtype, plan.source)


def _narrow(block: NDArray[np.float32], dtype: str, name: str) -> NDArray[Any]:
    """float32 as F32, F16 or BF16 (rounded to even, as uint16).

    Raises:
        ModelError: a weight is too large for F16.
    """
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
        _add(writer, f"{arch}.{key}", value)
    _add(writer, "tokenizer.ggml.model", tokenizer.model)
    _add(writer, "tokenizer.ggml.pre", tokenizer.pre)
    writer.add_array("tokenizer.ggml.tokens", [t.encode("utf-8") for t in tokenizer.tokens])
    writer.add_array("tokenizer.ggml.token_type", [int(kind) for kind in tokenizer.kinds])
    if tokenizer.scores:
        writer.add_array("tokenizer.ggml.scores", [float(score) for score in tokenizer.scores])
    if tokenizer.merges:
        writer.add_array("tokenizer.ggml.merges", list(tokenizer.merges))
    for name, token in tokenizer.special.items():
        _add(writer, f"tokenizer.ggml.{_SPECIAL_KEYS[name]}_token_id", token)
    _add(writer, "tokenizer.ggml.add_bos_token", tokenizer.add_bos)
    _add(writer, "tokenizer.ggml.add_eos_token", tokenizer.add_eos)
    if tokenizer.model == "llama":
        _add(writer, "tokenizer.ggml.add_space_prefix", tokenizer.space_prefix)
    _add(writer, "tokenizer.chat_template", tokenizer.template)


def _add(writer: Any, key: str, value: object) -> None:
    """One key, its type taken from the value."""
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
