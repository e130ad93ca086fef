"""The shipped models with other numbers: 32-bit floats for equalities, others for company."""

from __future__ import annotations

from pathlib import Path

from llama_cpp import llama_cpp as ll

from uhlm_edge.models import shipped

__all__ = ["requantised"]


def requantised(name: str, kind: str, folder: Path) -> Path:
    """A shipped model as `ALL_F32`, `MOSTLY_F16` or another of llama.cpp's types."""
    params = ll.llama_model_quantize_default_params()
    params.ftype = getattr(ll, f"LLAMA_FTYPE_{kind}")
    params.allow_requantize = True
    out = folder / f"{name}.{kind}.gguf"
    source = str(shipped.path_of(name)).encode()
    assert ll.llama_model_quantize(source, str(out).encode(), params) == 0
    return out
