"""What the header of a GGUF file says, once it has been checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .types import FILE_TYPES

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class ArraySummary:
    """An array in the metadata: its item type, its length and its first items (at most 16)."""

    type: str
    length: int
    head: tuple[Scalar, ...]


Value = Scalar | ArraySummary


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file. `offset` is in bytes from the start of the file, `shape` in ggml's
    order: the first dimension is the one that lies together in memory."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """The product of the dimensions."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True, slots=True)
class Header:
    """What a checked file says about itself. Strings in it are the file's: print them with
    `lm.text.harmless`."""

    version: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    file_size: int
    n_parts: int = 1

    def text(self, key: str) -> str | None:
        """Return a metadata value that is a string, None if there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    @property
    def architecture(self) -> str | None:
        """Such as "llama"; None if the file does not say."""
        return self.text("general.architecture")

    @property
    def file_type(self) -> str | None:
        """The quantisation the file says it has, such as "Q4_K_M"; None if it does not say."""
        number = self.metadata.get("general.file_type")
        if not isinstance(number, int):
            return None
        return FILE_TYPES.get(number, f"type {number}")

    @property
    def parameters(self) -> int:
        """How many weights all tensors hold."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def n_vocab(self) -> int | None:
        """How many tokens the vocabulary has; None without one."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, ArraySummary) else None
