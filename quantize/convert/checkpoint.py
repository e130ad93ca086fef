"""A Hugging Face model folder, read tensor by tensor and never as a whole.

Only safetensors is read. Its header is JSON and is checked against the file's size before a byte
of weights is used; pickled weights (`pytorch_model.bin`) are code, and are refused.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import DataError, ModelError
from ...common.files import read_bounded

BLOCK_BYTES = 32 << 20
"""About how much of a tensor is in memory at once, as float32."""

_HEADER_LIMIT = 64 << 20
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
_RAW: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: file, element type, shape, and the bytes it takes."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def widen(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Stored elements as float32. bfloat16 is the upper half of a float32's bits."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


_MOST_JSON = 256 << 20  # bytes; a tokenizer has up to 35 MB, a header 100 MB by its specification


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        ModelError: the file cannot be read or is no JSON object.
    """
    try:
        value = json.loads(read_bounded(path, _MOST_JSON))
    except DataError:
        raise ModelError(f"{path}: is larger than 256 MB, as no such file of a model is") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{path}: is not JSON: {error}") from error
    except RecursionError as error:
        raise ModelError(f"{path}: is nested too deeply") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: is not a JSON object")
    return value


class Checkpoint:
    """The config and the tensors of one folder.

    Raises on opening:
        ModelError: no config.json, no safetensors, a missing shard, a truncated or damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ModelError(f"{folder}: is not a folder with a model in it")
        self.config = read_json(folder / "config.json")
        self.tensors: Mapping[str, StoredTensor] = _find_tensors(folder)

    def optional_json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file of the folder, empty if there is no such file."""
        path = self.folder / name
        return read_json(path) if path.exists() else {}

    def blocks(
        self, name: str, order: NDArray[np.intp] | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """The tensor as float32, in blocks of whole rows, rows in the given order.

        A tensor with one dimension comes as one block of shape (n,).

        Raises:
            ModelError: an element type that cannot be read, or NaN or infinity among the weights.
        """
        stored = self.tensors[name]
        if stored.dtype not in _RAW:
            raise ModelError(
                f"{stored.file.name}: tensor {name} is stored as {stored.dtype};"
                f" {', '.join(sorted(_RAW))} can be read"
            )
        columns = stored.shape[-1] if len(stored.shape) > 1 else 1
        rows = math.prod(stored.shape) // columns if columns else 0
        step = rows if len(stored.shape) < 2 else max(1, BLOCK_BYTES // (4 * columns))
        whole = None if order is None else _read(stored, 0, rows, columns)[order]
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            raw = _read(stored, start, stop, columns) if whole is None else whole[start:stop]
            block = widen(raw, stored.dtype)
            if not np.isfinite(block).all():
                raise ModelError(f"{stored.file.name}: tensor {name} holds NaN or infinite weights")
            yield block[:, 0] if len(stored.shape) < 2 else block


def _read(stored: StoredTensor, start: int, stop: int, columns: int) -> NDArray[Any]:
    """Rows start..stop of a tensor as stored, shape (stop - start, columns)."""
    raw = _RAW[stored.dtype]
    with stored.file.open("rb") as stream:
        stream.seek(stored.offset + start * columns * raw.itemsize)
        found = np.fromfile(stream, raw, (stop - start) * columns)
    if found.size != (stop - start) * columns:
        raise ModelError(f"{stored.file.name}: ends inside tensor {stored.name}")
    return found.reshape(stop - start, columns)


def _find_tensors(folder: Path) -> dict[str, StoredTensor]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.exists():
        return _read_shards(folder, index)
    if single.exists():
        return _read_header(single)
    if any(folder.glob("*.bin")):
        raise ModelError(
            f"{folder}: its weights are pickled (.bin), which is code; use safetensors"
        )
    raise ModelError(f"{folder}: there is no model.safetensors in it")


def _read_shards(folder: Path, index: Path) -> dict[str, StoredTensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index}: has no weight_map")
    found: dict[str, StoredTensor] = {}
    for shard in sorted({str(name) for name in places.values()}):
        if Path(shard).name != shard:
            raise ModelError(f"{index}: names a shard outside its folder: {shard!r}")
        path = folder / shard
        if not path.exists():
            raise ModelError(f"{folder}: shard {shard} is missing")
        found.update(_read_header(path))
    for name, shard in places.items():
        if name not in found or found[name].file.name != shard:
            raise ModelError(f"{index}: tensor {name} is not in shard {shard}")
    return found


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file: 8 bytes of length, a JSON header, the data."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise ModelError(f"{path}: is truncated: {size} bytes hold no header")
        (length,) = struct.unpack("<Q", start)
        if length > _HEADER_LIMIT:
            raise ModelError(f"{path}: is not safetensors: a header of {length} bytes")
        if 8 + length > size:
            raise ModelError(
                f"{path}: is truncated: {size} bytes, the header alone needs {8 + length}"
            )
        text = stream.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not safetensors: its header is not JSON") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: is not safetensors: its header is not an object")
    found = {
        name: _place(path, name, entry, 8 + length)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    end = max((tensor.offset + tensor.nbytes for tensor in found.values()), default=0)
    if end > size:
        raise ModelError(f"{path}: is truncated: {size} bytes, {end} are needed")
    return found


def _place(path: Path, name: str, entry: object, base: int) -> StoredTensor:
    try:
        if not isinstance(entry, dict):
            raise TypeError
        dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if any(type(n) is not int for n in (*shape, begin, end)):
            raise TypeError
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the header entry of tensor {name} is damaged") from error
    if begin < 0 or end < begin or any(n < 0 for n in shape):
        raise ModelError(f"{path}: tensor {name} lies outside the file")
    item = _ITEM_BYTES.get(dtype)
    if item is not None and math.prod(shape) * item != end - begin:
        raise ModelError(f"{path}: tensor {name} has {end - begin} bytes, its shape needs others")
    return StoredTensor(name, path, dtype, shape, base + begin, end - begin)
