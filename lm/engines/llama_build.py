"""Which llama.cpp is inside, and what it was compiled for."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as ll

FLASH = {
    "auto": ll.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": ll.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": ll.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
"""llama.cpp's numbers for `EngineOptions.flash_attention`."""


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


def model_params(gpu_layers: int) -> Any:
    """llama.cpp's defaults for loading a model, with that many layers on the GPU.

    A build that would rearrange the weights for AMX is told to leave them as they are: compiled by
    gcc 12, which drops most of what that code stores of the tiles' shape, it ends the process with
    a general protection fault at the first block of tokens, and no build says what compiled it.
    """
    params = ll.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    if b"AMX_INT8 = 1" in ll.llama_print_system_info():
        params.use_extra_bufts = False
    return params


def _symbol(name: str) -> str | None:
    """A function without arguments that returns a string, if this build has it."""
    try:
        function = getattr(ll._lib, name)
    except AttributeError:
        return None
    function.restype = ctypes.c_char_p
    value = function()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None
