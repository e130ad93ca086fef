"""The program that quantises, apart from the process that asks (`llama_quantize.py`).

It loads llama.cpp's calls and nothing beside them: the package around them, and numpy, take four
times as long as all else that it does for a small model.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

NEXT = "uhlm-edge next"
"""The line after each type."""
RESULT = "uhlm-edge result:"
"""How the last line begins; llama.cpp's number follows."""


def _library() -> Any:
    """llama.cpp's functions."""
    spec = importlib.util.find_spec("llama_cpp")
    package = ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    sys.modules["llama_cpp"] = package
    from llama_cpp import llama_cpp

    return llama_cpp


def _imatrix_array(ll: Any, path: str) -> tuple[Any, list[Any]]:
    """The matrix as llama.cpp takes it, its last entry without a name; and what must live on."""
    entries: list[tuple[str, Any]] = [("any", (ctypes.c_float * 1)(1.0))]
    if path != "any":  # for a dry run it need only be there
        import numpy as np

        from .imatrix.file import load_imatrix

        found = sorted(load_imatrix(Path(path)).importance().items())
        entries = [(name, np.ctypeslib.as_ctypes(values)) for name, values in found]
    array = (ll.llama_model_imatrix_data * (len(entries) + 1))()
    for place, (name, values) in zip(array, entries, strict=False):
        place.name = name.encode()
        place.data = ctypes.cast(values, ctypes.POINTER(ctypes.c_float))
        place.size = len(values)
    return array, entries


def main(src: str, out: str, types: str, threads: str, mode: str, imatrix: str) -> None:
    """The quantisation itself: log lines to the output, the result last."""

    def follow_parent() -> None:
        sys.stdin.buffer.read()  # ends when the parent does
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    ll = _library()
    log = ll.llama_log_callback(lambda level, text, data: os.write(1, text) and None)
    ll.llama_log_set(log, ctypes.c_void_p(0))
    ll.llama_backend_init()
    params = ll.llama_model_quantize_default_params()
    params.nthread = int(threads)
    params.dry_run = mode == "dry"
    params.max_buf_size = 256 << 20
    keep: Any = None
    if imatrix:
        array, keep = _imatrix_array(ll, imatrix)
        params.imatrix = ctypes.cast(array, type(params.imatrix))
    code = 0
    for number in types.split(","):
        params.ftype = int(number)
        code = code or ll.llama_model_quantize(src.encode(), out.encode(), params)
        os.write(1, f"\n{NEXT}\n".encode())
    del keep
    os.write(1, f"{RESULT} {code}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main(*sys.argv[1:])
