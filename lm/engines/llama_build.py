"""Which llama.cpp is inside, and what it was compiled for."""

from __future__ import annotations

import ctypes

import llama_cpp
from llama_cpp import llama_cpp as ll

__all__ = ["llama_build", "supports_gpu"]


def llama_build() -> dict[str, str | None]:
    """Versions of the package and of ggml, its commit, and the processor features compiled in."""
    system: bytes = ll.llama_print_system_info()
    return {
        "llama_cpp_python": str(getattr(llama_cpp, "__version__", "")) or None,
        "build_commit": _symbol("ggml_commit"),
        "ggml_version": _symbol("ggml_version"),
        "system_info": system.decode("utf-8", "replace").strip(" |"),
    }


def supports_gpu() -> bool:
    """Was a GPU backend compiled in, and does it see a GPU?"""
    return bool(ll.llama_supports_gpu_offload())


def _symbol(name: str) -> str | None:
    """A function without arguments that returns a string, if this build has it."""
    try:
        function = getattr(ll._lib, name)
    except AttributeError:
        return None
    function.restype = ctypes.c_char_p
    value = function()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None
