"""Small GGUF files, good and bad, written byte by byte: no library would write the bad ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?"}
FORMATS |= {U64: "Q", I64: "q", F64: "d"}


def text(value: str | bytes) -> bytes:
    """A string as the format has it: length, bytes."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, kind: int, value: bytes | str | float) -> bytes:
    """A key with its value; bytes are taken as they are."""
    if isinstance(value, str):
        value = text(value)
    elif not isinstance(value, bytes):
        value = struct.pack("<" + FORMATS[kind], value)
    return text(name) + struct.pack("<I", kind) + value


def array(name: str, kind: int, items: Sequence[str | float], claimed: int | None = None) -> bytes:
    """An array; `claimed` is the length it says it has."""
    length = len(items) if claimed is None else claimed
    if kind == STRING:
        body = b"".join(text(str(item)) for item in items)
    else:
        body = struct.pack(f"<{len(items)}{FORMATS[kind]}", *items)
    return key(name, ARRAY, struct.pack("<IQ", kind, length) + body)


def tensor(
    name: str | bytes = "w", shape: Sequence[int] = (8, 4), kind: int = 0, offset: int = 0
) -> bytes:
    """The entry of a tensor: F32, 128 bytes, unless told otherwise."""
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


ARCHITECTURE = key("general.architecture", STRING, "llama")


def gguf(
    keys: Sequence[bytes] = (ARCHITECTURE,),
    tensors: Sequence[bytes] = (tensor(),),
    data: int = 128,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file with `data` zero bytes as weights; good unless told otherwise."""
    counts = (
        len(tensors) if n_tensors is None else n_tensors,
        len(keys) if n_keys is None else n_keys,
    )
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(data)


def vocabulary(n: int) -> list[bytes]:
    """Keys of a byte-level BPE vocabulary with `n` tokens and as many merges."""
    return [
        key("tokenizer.ggml.model", STRING, "gpt2"),
        array("tokenizer.ggml.tokens", STRING, [f"tok{i}" for i in range(n)]),
        array("tokenizer.ggml.token_type", I32, [1] * n),
        array("tokenizer.ggml.scores", F32, [0.0] * n),
        array("tokenizer.ggml.merges", STRING, [f"t {i}" for i in range(n)]),
    ]


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    """Write `content` to a file in `folder`."""
    path = folder / name
    path.write_bytes(content)
    return path
