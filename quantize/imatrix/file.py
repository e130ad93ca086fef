"""Importance matrices as GGUF files, in the form that llama.cpp's tools read and write.

For each weight matrix NAME two float32 tensors: `NAME.in_sum2`, the sum of the squares of each
input column, shape (matrices, columns), and `NAME.counts`, over how many rows, shape (matrices, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...common.errors import ModelError
from ...common.files import atomic_output
from ...lm.gguf.check import check

_SUMS, _COUNTS = ".in_sum2", ".counts"
_COLUMNS_LIMIT = 1 << 26


@dataclass(frozen=True, eq=False)
class Imatrix:
    """Sums of squared activations per input column, and over how many rows, by weight name."""

    sums: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, int]

    def importance(self) -> dict[str, NDArray[np.float32]]:
        """The mean square of each column: what quantisation weighs its errors by.

        A column that was never used has importance 1, as in llama.cpp's own tool.
        """
        return {
            name: (sums / count if (count := self.counts[name]) else np.ones_like(sums)).astype(
                np.float32
            )
            for name, sums in self.sums.items()
        }


def save_imatrix(
    matrix: Imatrix, path: Path, datasets: Sequence[str], chunks: int, chunk_size: int
) -> None:
    """Write `matrix` to `path`, whole or not at all.

    `chunks` and `chunk_size` say over how many pieces of text, of how many ids each.
    """
    import gguf

    with atomic_output(path) as part:
        writer = gguf.GGUFWriter(part, "imatrix")
        writer.kv_data[0].clear()  # an importance matrix has no architecture
        writer.add_string("general.type", "imatrix")
        writer.add_array("imatrix.datasets", list(datasets))
        writer.add_uint32("imatrix.chunk_count", chunks)
        writer.add_uint32("imatrix.chunk_size", chunk_size)
        for name in sorted(matrix.sums):
            writer.add_tensor(name + _SUMS, matrix.sums[name].reshape(1, -1))
            counts = np.array([[matrix.counts[name]]], dtype=np.float32)
            writer.add_tensor(name + _COUNTS, counts)
        with closing(writer):
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()


def load_imatrix(path: Path) -> Imatrix:
    """The matrix in `path`.

    Raises:
        ModelError: the file is damaged, holds no importance matrix, or one that is not finite.
    """
    header = check(path)
    places = {tensor.name: tensor for tensor in header.tensors}
    sums: dict[str, NDArray[np.float32]] = {}
    counts: dict[str, int] = {}
    for name, place in places.items():
        if not name.endswith(_SUMS):
            continue
        weight = name.removesuffix(_SUMS)
        beside = places.get(weight + _COUNTS)
        if beside is None or place.type != "F32" or beside.type != "F32":
            raise ModelError(f"{path}: the entry of {weight} is damaged")
        if beside.n_elements != 1:
            raise ModelError(f"{path}: {weight} is of a mixture of experts, which is not supported")
        if place.n_elements > _COLUMNS_LIMIT:
            raise ModelError(f"{path}: the entry of {weight} is too large")
        values = np.fromfile(path, "<f4", place.n_elements, offset=place.offset)
        (count,) = np.fromfile(path, "<f4", 1, offset=beside.offset)
        if not (np.isfinite(values).all() and (values >= 0).all() and 0 <= count < 2**53):
            raise ModelError(f"{path}: the entry of {weight} is not a sum of squares")
        sums[weight], counts[weight] = values, int(count)
    if not sums:
        raise ModelError(f"{path}: is not an importance matrix: it has no {_SUMS} in it")
    return Imatrix(sums, counts)
