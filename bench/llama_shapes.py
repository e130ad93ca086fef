"""llama.cpp's quantiser, for the mix of tensor types that it would give a model of some shape."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from llama_cpp import llama_cpp as ll

from ..lm.errors import ModelError, UsageError

__all__ = ["quantise"]

_BUFFER = 256 << 20  # bytes of rows in memory at once; the default is 8 GiB


@ll.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _silent(level: int, text: bytes, user_data: object) -> None:
    """Kept at module level: llama.cpp holds on to its log callback."""


def quantise(source: Path, target: Path, quantisation: str) -> None:
    """Quantise an F16 GGUF by llama.cpp's own rules.

    Raises:
        UsageError: no such quantisation.
        ModelError: llama.cpp refuses.
    """
    number = getattr(ll, f"LLAMA_FTYPE_MOSTLY_{quantisation}", None)
    if number is None:
        raise UsageError(f"no quantisation {quantisation!r}; try Q4_K_M, Q4_0, Q8_0 or F16")
    params = ll.llama_model_quantize_default_params()
    params.ftype = number
    params.nthread = os.cpu_count() or 1
    params.max_buf_size = _BUFFER
    ll.llama_log_set(_silent, ctypes.c_void_p(0))
    code = ll.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if code != 0:
        raise ModelError(f"llama.cpp cannot make {quantisation} of this shape (code {code})")
