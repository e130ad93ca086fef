"""Names of quantisations, and which of them are useless without an importance matrix."""

from __future__ import annotations

from collections.abc import Iterable

from ..common.errors import UsageError
from ..lm.gguf.types import FILE_TYPES

_NOT_OFFERED = frozenset({"MXFP4_MOE", "NVFP4", "Q1_0"})
"""For mixtures of experts only, or not written by llama.cpp."""

QUANT_TYPES = {name: n for n, name in FILE_TYPES.items() if name not in _NOT_OFFERED}
"""Name -> number of every type that a file can be quantised to."""

NEEDS_IMATRIX = frozenset({
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S",
})  # fmt: skip
"""Types that llama.cpp refuses to make without an importance matrix."""


def require_types(names: Iterable[str], has_imatrix: bool) -> list[str]:
    """The names in upper case, each once, in the order given.

    Raises:
        UsageError: one is unknown, or needs an importance matrix that is not there.
    """
    wanted = list(dict.fromkeys(name.upper() for name in names))
    if not wanted:
        raise UsageError("no type to quantise to; give one with --type, such as Q4_K_M")
    for name in wanted:
        if name not in QUANT_TYPES:
            raise UsageError(f"{name} is no type known here; known are {', '.join(QUANT_TYPES)}")
        if name in NEEDS_IMATRIX and not has_imatrix:
            raise UsageError(
                f"{name} needs an importance matrix: give prompts with --prompts, or a matrix made"
                " before with --imatrix"
            )
    return wanted
