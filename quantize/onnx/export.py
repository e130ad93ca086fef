"""Hugging Face folder -> ONNX folder, for devices on which nothing can be compiled.

The folder holds `model.onnx` (the graph), `model.onnx.data` (the weights), `tokenizer.json`, and
`vocabulary.json`: bytes and kind of each id as llama.cpp reads them from the GGUF of the same
model, so that both engines have one vocabulary and one fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import UsageError
from ...common.files import explained, free_bytes, require_space
from ..convert.folder import Conversion, plan_conversion
from ..convert.reference import reference_tokenizer
from .graph import DATA_FILE, Graph, Weight, build

TYPES = ("F32", "INT8")
FORMAT = 1
Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do (both in bytes) and what is at work."""


def export_onnx(
    src: Path,
    out: Path,
    type_: str = "F32",
    progress: Progress | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> None:
    """Write the model in folder `src` to the new folder `out`.

    Args:
        src: a Hugging Face folder: config.json, safetensors, a tokenizer.
        out: a folder that does not exist yet.
        type_: "F32", or "INT8": matrices as int8 with a scale for each output, activations
            quantised as they come (the operators of `onnxruntime.quantization.quantize_dynamic`),
            the embedding as float16.
        progress: told of each tensor.
        free: bytes free on the disk of a folder.

    Raises:
        UsageError: an unknown type, or `out` is there already.
        ModelError: the folder cannot be converted.
        ResourceError: the disk has no room.
    """
    type_ = type_.upper()
    if type_ not in TYPES:
        raise UsageError(f"{type_} is no type of ONNX model; {', '.join(TYPES)} are")
    if out.exists():
        raise UsageError(f"{out}: is there already; remove it or choose another folder")
    conversion = plan_conversion(src, "F32")
    shapes = {tensor.name: tensor.shape for tensor in conversion.tensors}
    graph = build(conversion.layout, shapes, int8=type_ == "INT8")
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, graph.nbytes + (64 << 20), free)
    with _new_folder(out) as folder:
        (folder / "model.onnx").write_bytes(graph.model().SerializeToString())
        _write_weights(folder / DATA_FILE, graph, conversion, progress)
        _write_vocabulary(folder, conversion, graph, type_)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends well, and goes otherwise."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with explained(out):
            yield folder
            folder.chmod(0o755)
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_weights(
    path: Path, graph: Graph, conversion: Conversion, progress: Progress | None
) -> None:
    """Stream the tensors into their places: a block of rows is in memory at a time."""
    sources = {tensor.name: tensor.source for tensor in conversion.tensors}
    plans: dict[str, dict[str, Weight]] = {}
    for weight in graph.weights:
        plans.setdefault(weight.source, {})[weight.role] = weight
    with path.open("wb") as stream:
        stream.truncate(graph.nbytes)
    done = 0
    for name, roles in plans.items():
        places = {role: _map(path, weight) for role, weight in roles.items()}
        source, row = sources[name], 0
        assert isinstance(source, str)  # noqa: S101 -- only factors of positions are no tensor
        for block in conversion.checkpoint.blocks(source):
            block = block + np.float32(conversion.layout.offset(name))
            _fill(places, block, slice(row, row + len(block)))
            row += len(block)
        for place in places.values():
            place.flush()
        done += sum(weight.nbytes for weight in roles.values())
        if progress:
            progress(done, graph.nbytes, name)


def _map(path: Path, weight: Weight) -> np.memmap[Any, Any]:
    dtype = {"F32": "<f4", "F16": "<f2", "I8": "i1"}[weight.dtype]
    return np.memmap(path, dtype, "r+", weight.offset, weight.shape)


def _fill(places: dict[str, np.memmap[Any, Any]], block: NDArray[np.float32], rows: slice) -> None:
    """Put rows of a tensor, shape (n,) or (n, columns), into all that is made of them."""
    if "plain" in places:
        places["plain"][rows] = block
    if "transposed" in places:
        places["transposed"][:, rows] = block.T
    if "quantised" in places:
        scale = np.abs(block).max(axis=1) / np.float32(127)
        scale[scale == 0] = 1.0
        places["scale"][rows] = scale
        places["quantised"][:, rows] = np.rint(block / scale[:, None]).astype(np.int8).T


def _write_vocabulary(folder: Path, conversion: Conversion, graph: Graph, type_: str) -> None:
    """tokenizer.json, and what a `Vocabulary` holds, with its fingerprint to check it by."""
    from ..convert.llama_tokens import open_vocabulary

    tokenizer = folder / "tokenizer.json"
    reference_tokenizer(conversion.checkpoint).save(str(tokenizer))
    layout = conversion.layout
    with tempfile.TemporaryDirectory(prefix="uhlm-") as scratch:
        outline = Path(scratch) / "outline.gguf"
        conversion.write_outline(outline)
        with open_vocabulary(outline) as vocab:
            content = {
                "format": FORMAT, "name": conversion.checkpoint.folder.resolve().name,
                "architecture": layout.family.arch, "type": type_, "layers": layout.layers,
                "kv_heads": layout.kv_heads, "head_dim": layout.head_dim,
                "context": layout.rope.context, "data_bytes": graph.nbytes,
                "tokenizer_sha256": hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
                "fingerprint": list(vocab.fingerprint),
                "pieces": [piece.decode("latin-1") for piece in vocab.pieces],
                "kinds": [int(kind) for kind in vocab.kinds], "end_ids": sorted(vocab.end_ids),
                "template": vocab.template, "bos": vocab.bos, "eos": vocab.eos,
            }  # fmt: skip
    (folder / "vocabulary.json").write_text(json.dumps(content), "utf-8")
