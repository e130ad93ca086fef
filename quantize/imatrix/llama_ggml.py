"""Looking into llama.cpp's tensors while it computes.

The layout of `ggml_tensor` is not part of any interface, so it is not written down here but found:
tensors of known shapes are made, and their memory is searched for those shapes and for the
addresses of their operands. If that does not give exactly one answer, nothing is read.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from llama_cpp import llama_cpp as ll
from numpy.typing import NDArray

from ...common.errors import EngineError

_F32, _F16 = 0, 1
_SPAN = 320
"""Bytes of a tensor that are searched: fewer than any version's tensor has, name included."""


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@dataclass(frozen=True)
class TensorLayout:
    """Offsets in bytes inside a tensor: sizes (4 x int64), strides (4 x size_t), operands."""

    sizes: int
    strides: int
    operands: int


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """ggml's exported functions, with their types set once."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library = ctypes.CDLL(ll._lib._name)
    signatures: dict[str, tuple[object, list[object]]] = {
        "ggml_init": (pointer, [_InitParams]),
        "ggml_free": (None, [pointer]),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_set_name": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_get_name": (ctypes.c_char_p, [pointer]),
        "ggml_op_desc": (ctypes.c_char_p, [pointer]),
        "ggml_nbytes": (size, [pointer]),
        "ggml_tensor_overhead": (size, []),
        "ggml_backend_tensor_get": (None, [pointer, pointer, size, size]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name, None)
        if function is None:
            raise EngineError(f"this build of llama.cpp has no {name}; activations cannot be read")
        function.restype, function.argtypes = result, arguments
    return library


@lru_cache(maxsize=1)
def find_layout() -> TensorLayout:
    """Where a tensor keeps its sizes, strides and operands, in the library that is loaded.

    Raises:
        EngineError: the search does not give exactly one answer.
    """
    library = _library()
    if library.ggml_tensor_overhead() < _SPAN:
        raise EngineError("this build of llama.cpp has tensors of another kind")
    context = library.ggml_init(_InitParams(1 << 20, None, True))
    try:
        # the product comes last, so that memory behind it is the context's too
        weight = library.ggml_new_tensor_2d(context, _F16, 5, 3)
        input_ = library.ggml_new_tensor_2d(context, _F32, 5, 7)
        product = library.ggml_mul_mat(context, weight, input_)
        library.ggml_set_name(weight, b"probe.weight")
        found = TensorLayout(
            sizes=_search(
                [(weight, [5, 3, 1, 1]), (input_, [5, 7, 1, 1]), (product, [3, 7, 1, 1])]
            ),
            strides=_search([(weight, [2, 10, 30, 30]), (input_, [4, 20, 140, 140])]),
            operands=_search([(product, [weight, input_])]),
        )
        view = TensorView(product, found)
        first, second = view.operand(0), view.operand(1)
        if (
            first.name != "probe.weight"
            or first.kind != _F16
            or second.kind != _F32
            or library.ggml_nbytes(second.address) != 140
            or view.operation != "MUL_MAT"
        ):
            raise EngineError("this build of llama.cpp lays its tensors out differently")
        return found
    finally:
        library.ggml_free(context)


def _search(known: list[tuple[int, list[int]]]) -> int:
    """The one offset at which each tensor holds its run of 64-bit numbers."""
    offsets = [
        at
        for at in range(0, _SPAN - 32, 8)
        if all(_read_words(address + at, len(words)) == words for address, words in known)
    ]
    if len(offsets) != 1:
        raise EngineError("this build of llama.cpp lays its tensors out differently")
    return offsets[0]


def _read_words(address: int, count: int) -> list[int]:
    return list((ctypes.c_uint64 * count).from_address(address))


@dataclass(frozen=True)
class TensorView:
    """One tensor of a running computation. Valid during the callback only."""

    address: int
    layout: TensorLayout

    @property
    def name(self) -> str:
        """Its name, without what a scheduler puts around it (`CPU#name#0`)."""
        text = bytes(_library().ggml_get_name(self.address) or b"").decode("utf-8", "replace")
        return text.split("#")[1] if "#" in text else text

    @property
    def operation(self) -> str:
        """What computes it, such as MUL_MAT."""
        return bytes(_library().ggml_op_desc(self.address) or b"").decode("ascii", "replace")

    @property
    def kind(self) -> int:
        """ggml's number of the element type; 0 is float32."""
        return int(ctypes.c_int32.from_address(self.address).value)

    @property
    def sizes(self) -> list[int]:
        """ggml's order: the dimension that lies together in memory comes first."""
        return _read_words(self.address + self.layout.sizes, 4)

    def operand(self, n: int) -> TensorView:
        """Its n-th operand."""
        (address,) = _read_words(self.address + self.layout.operands + 8 * n, 1)
        return TensorView(address, self.layout)

    def read(self) -> NDArray[np.float32]:
        """A copy of a float32 tensor's elements, shape (rows, columns).

        Raises:
            EngineError: it is not float32 in one piece.
        """
        sizes = self.sizes
        strides = _read_words(self.address + self.layout.strides, 4)
        count = int(np.prod(sizes, dtype=np.int64))
        packed = [4, 4 * sizes[0], 4 * sizes[0] * sizes[1], 4 * sizes[0] * sizes[1] * sizes[2]]
        if self.kind != _F32 or strides != packed:
            raise EngineError(f"activations of {self.name} are not plain float32")
        values = np.empty(count, dtype=np.float32)
        _library().ggml_backend_tensor_get(self.address, values.ctypes.data, 0, values.nbytes)
        return values.reshape(-1, sizes[0])
