"""Check the header of a GGUF file before anything else opens it.

A GGUF file is hostile until checked: every count, length and offset in it is compared with the
size of the file, and with a limit, before it is used. Nothing is allocated by a number the file
claims; large arrays are stepped over and never built. The format is that of ggml's `docs/gguf.md`.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from ...common.errors import ModelError
from ...common.text import one_line
from .header import ArraySummary, Header, Scalar, Tensor, Value
from .limits import check_limits, check_vocabulary
from .types import ARRAY, STRING, TENSOR_TYPES, VALUE_TYPES

MAX_KEYS = 65_536
MAX_TENSORS = 65_536
MAX_KEY_BYTES = 65_535  # the specification's own limit
MAX_NAME_BYTES = 63  # ggml keeps names in 64 bytes with a zero at the end
MAX_STRING_BYTES = 16 << 20  # a chat template is the longest that is known: tens of KB
MAX_TEXT_BYTES = 64 << 20  # of all strings that are kept
MAX_ITEM_BYTES = 1 << 20  # one token or merge
MAX_TOKENS = 1 << 20
MAX_ITEMS = 1 << 22  # strings in all arrays; the largest vocabularies have under a million
MAX_PARTS = 1_000
KEPT_ITEMS = 16

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SMALLEST = 24  # magic, version, two counts
_PART = re.compile(r"(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf")

_AGAIN = "get it again from a source you trust"


def check(path: str | os.PathLike[str]) -> Header:
    """Check a GGUF file and return its header. Tensor data are not read.

    A model in several parts (`NAME-00001-of-00003.gguf`) is checked with all its parts, since
    llama.cpp opens them all: the header is that of the part given, with the tensors of every part.

    Raises:
        ModelError: the file is missing, not a GGUF, damaged, or made to do harm.
    """
    path = Path(path)
    header = _check_one(path)
    count = header.metadata.get("split.count")
    if not isinstance(count, int) or count <= 1:
        return header
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count or count > MAX_PARTS:
        _refuse(path, f"it is one of {count} parts and not named so", "give the parts their names")
    parts = [header]
    for number in range(1, count + 1):
        part = path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf")
        other = header if part == path else _check_one(part)
        if (other.metadata.get("split.no"), other.metadata.get("split.count")) != (
            number - 1,
            count,
        ):
            _refuse(part, "its name and its header disagree on which part it is", _AGAIN)
        if other is not header:
            parts.append(other)
    names = [tensor.name for part in parts for tensor in part.tensors]
    if len(set(names)) != len(names):
        _refuse(path, "two of its parts hold a tensor of the same name", _AGAIN)
    return Header(
        header.version,
        header.alignment,
        header.metadata,
        tuple(tensor for part in parts for tensor in part.tensors),
        sum(part.file_size for part in parts),
        count,
    )


def _check_one(path: Path) -> Header:
    try:
        status = path.stat()  # before opening: a pipe would wait for a writer
        if stat.S_ISDIR(status.st_mode):
            advice = "give a file in it, or make one with `uhlm-edge quantize`"
            _refuse(path, "it is a folder, not a GGUF file", advice)
        if not stat.S_ISREG(status.st_mode):
            _refuse(path, "it is not a regular file", "give a GGUF file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                _refuse(path, "the file is empty", "download it again")
            _refuse_other_formats(path, file.read(512), size)
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, size).header()
    except FileNotFoundError:
        _refuse(path, "there is no such file", "check the name, or get it with `uhlm-edge pull`")
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte in it
        _refuse(path, f"it cannot be read ({error})", "check its name and its permissions")


def _refuse(path: Path, wrong: str, advice: str) -> NoReturn:
    raise ModelError(f"{one_line(str(path))}: {one_line(wrong)}; {advice}")


_MAGICS = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02", "a pickle, perhaps a PyTorch checkpoint"),
    (b"\x80\x03", "a pickle, perhaps a PyTorch checkpoint"),
    (b"\x80\x04", "a pickle, perhaps a PyTorch checkpoint"),
    (b"lmgg", "a GGML file of 2023"),
    (b"fmgg", "a GGML file of 2023"),
    (b"tjgg", "a GGML file of 2023"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x89HDF", "an HDF5 file"),
)


def _refuse_other_formats(path: Path, start: bytes, size: int) -> None:
    """Say what a file is that is not a GGUF, when it is something well known."""
    if start[:4] == b"GGUF":
        if size < _SMALLEST:
            _refuse(path, f"it ends after {size} bytes, within its first numbers", _AGAIN)
        return
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        advice = "a login or error page was saved in its place: download it again"
        _refuse(path, "it is an HTML page, not a GGUF file", advice)
    if start.startswith(b"version https://git-lfs"):
        _refuse(path, "it is a Git LFS pointer, not the file itself", "run `git lfs pull`")
    if len(start) > 9 and start[8:9] == b"{" and _U64.unpack_from(start)[0] <= size - 8:
        advice = "make a GGUF of its folder with `uhlm-edge quantize`"
        _refuse(path, "it is a safetensors file, not a GGUF file", advice)
    for magic, name in _MAGICS:
        if start.startswith(magic):
            _refuse(path, f"it is {name}, not a GGUF file", "get the model as GGUF")
    _refuse(path, f"it is not a GGUF file: it starts with {start[:4]!r}", "give a GGUF file")


class _Reader:
    """A position in the file that only moves forward, and never past the end."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.at = 4
        self.text_bytes = 0
        self.items = 0

    def refuse(self, wrong: str) -> NoReturn:
        _refuse(self.path, wrong, _AGAIN)

    def take(self, n_bytes: int, what: str) -> int:
        """Step over `n_bytes` and return where they start."""
        start = self.at
        if n_bytes > self.size - start:
            self.refuse(
                f"it is truncated: {what} needs {start + n_bytes:,} bytes, the file has "
                f"{self.size:,}"
            )
        self.at = start + n_bytes
        return start

    def u32(self, what: str) -> int:
        value: int = _U32.unpack_from(self.data, self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack_from(self.data, self.take(8, what))[0]
        return value

    def string(self, what: str, limit: int) -> bytes:
        length = self.u64(f"the length of {what}")
        if length > limit:
            self.refuse(f"{what} is {length} bytes long; the limit is {limit}")
        self.text_bytes += length
        if self.text_bytes > MAX_TEXT_BYTES:
            self.refuse(f"its strings exceed {MAX_TEXT_BYTES} bytes")
        start = self.take(length, what)
        return self.data[start : start + length]

    def header(self) -> Header:
        version = self.u32("the version")
        if version not in (2, 3):
            if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
                _refuse(self.path, "it is a big-endian GGUF file", "get the little-endian one")
            wrong = f"it is GGUF version {version}, and only 2 and 3 can be read"
            _refuse(self.path, wrong, "convert the model again")
        n_tensors = self.u64("the count of tensors")
        n_keys = self.u64("the count of keys")
        # The smallest tensor entry: name length, one letter, dimensions, one size, type, offset.
        self.bound(n_tensors, MAX_TENSORS, 8 + 1 + 4 + 8 + 4 + 8, "tensors")
        self.bound(n_keys, MAX_KEYS, 8 + 1 + 4 + 1, "keys")
        metadata = self.metadata(n_keys)
        alignment = self.alignment(metadata)
        entries = [self.tensor() for _ in range(n_tensors)]
        data_start = -(-self.at // alignment) * alignment
        tensors = tuple(
            self.place(data_start, alignment, number, *entry)
            for number, entry in enumerate(entries)
        )
        self.compare(tensors)
        header = Header(version, alignment, MappingProxyType(metadata), tensors, self.size)
        check_limits(header, self.refuse)
        return header

    def bound(self, count: int, limit: int, smallest: int, what: str) -> None:
        if count > limit:
            self.refuse(f"it claims {count} {what}; the limit is {limit}")
        if count * smallest > self.size - self.at:
            self.refuse(f"it is truncated or false: {count} {what} do not fit in {self.size} bytes")

    def metadata(self, n_keys: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for _ in range(n_keys):
            try:
                key = self.string("a key", MAX_KEY_BYTES).decode()
            except UnicodeDecodeError:
                self.refuse("a key is not UTF-8")
            if not key or "\0" in key:
                self.refuse("a key is empty or has a zero byte")
            if key in values:
                self.refuse(f"the key {_short(key)} comes twice")
            kind = self.u32(f"the type of {_short(key)}")
            values[key] = self.value(key, kind)
            if key == "general.alignment" and kind != 4 and isinstance(values[key], int):
                self.refuse(f"general.alignment is not a u32: {values[key]}")
        check_vocabulary(values, self.refuse)
        return values

    def value(self, key: str, kind: int) -> Value:
        what = f"the value of {_short(key)}"
        if kind == ARRAY:
            return self.array(key)
        if kind == STRING:
            return self.string(what, MAX_STRING_BYTES).decode(errors="replace")
        if kind not in VALUE_TYPES:
            self.refuse(f"{what} has the unknown type {kind}")
        return self.scalars(what, kind, 1)[0]

    def scalars(self, what: str, kind: int, count: int) -> tuple[Scalar, ...]:
        code = struct.Struct(f"<{count}{VALUE_TYPES[kind].format}")
        return code.unpack_from(self.data, self.take(code.size, what))

    def array(self, key: str) -> ArraySummary:
        what = f"the array {_short(key)}"
        kind = self.u32(f"the type of {what}")
        length = self.u64(f"the length of {what}")
        if kind == ARRAY:
            self.refuse(f"{what} is an array of arrays, which no model has")
        if kind not in VALUE_TYPES:
            self.refuse(f"{what} has items of the unknown type {kind}")
        kept = min(length, KEPT_ITEMS)
        head: tuple[Scalar, ...]
        if kind == STRING:
            self.items += length
            self.bound(self.items, MAX_ITEMS, 0, "strings in arrays")
            self.bound(length, MAX_ITEMS, 8, f"strings in {_short(key)}")
            item = f"an item of {what}"
            raw = [self.string(item, MAX_ITEM_BYTES) for _ in range(kept)]
            head = tuple(text.decode(errors="replace") for text in raw)
            if key == "tokenizer.ggml.tokens":
                self.bound(length, MAX_TOKENS, 0, "tokens")
                self.skip_different(what, length - kept, raw)
            else:
                self.skip_strings(what, length - kept)
        else:
            width = struct.calcsize("<" + VALUE_TYPES[kind].format)
            if length * width > self.size - self.at:
                self.refuse(f"it is truncated or false: {what} claims {length} items")
            head = self.scalars(what, kind, kept)
            self.take((length - kept) * width, what)
        return ArraySummary(VALUE_TYPES[kind].name, length, head)

    def skip_strings(self, what: str, count: int) -> None:
        """Step over strings, comparing each length with the limit: the one long loop."""
        unpack, data, at = _U64.unpack_from, self.data, self.at
        try:
            for _ in range(count):
                (length,) = unpack(data, at)
                if length > MAX_ITEM_BYTES:
                    self.refuse(f"an item of {what} is {length} bytes long")
                at += 8 + length
        except struct.error:
            at = self.size + 1
        if at > self.size:
            self.refuse(f"it is truncated within {what}")
        self.at = at

    def skip_different(self, what: str, count: int, seen: list[bytes]) -> None:
        """The same for tokens, no two of which may be the same: llama.cpp aborts on such."""
        unpack, data, at = _U64.unpack_from, self.data, self.at
        known = set(filter(None, seen))
        expected, add = sum(map(bool, seen)) + count, known.add
        try:
            for _ in range(count):
                (length,) = unpack(data, at)
                if length > MAX_ITEM_BYTES:
                    self.refuse(f"an item of {what} is {length} bytes long")
                at += 8
                if length:
                    add(data[at : at + length])
                    at += length
                else:
                    expected -= 1  # llama.cpp gives each empty one a name of its own
        except struct.error:
            at = self.size + 1
        if at > self.size:
            self.refuse(f"it is truncated within {what}")
        if len(known) != expected:
            self.refuse(f"{what} has the same token more than once")
        self.at = at

    def alignment(self, metadata: Mapping[str, Value]) -> int:
        value = metadata.get("general.alignment", 32)
        if type(value) is not int or not 0 < value <= 1 << 20 or value & (value - 1):
            self.refuse(f"general.alignment is {_short(str(value))}, not a power of two")
        return value

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        try:
            name = self.string("the name of a tensor", MAX_NAME_BYTES).decode()
        except UnicodeDecodeError:
            self.refuse("the name of a tensor is not UTF-8")
        if not name or "\0" in name:
            self.refuse("the name of a tensor is empty or has a zero byte")
        what = f"tensor {_short(name)}"
        n_dims = self.u32(f"the dimensions of {what}")
        if not 1 <= n_dims <= 4:
            self.refuse(f"{what} has {n_dims} dimensions; 1 to 4 are possible")
        shape = struct.unpack_from(f"<{n_dims}Q", self.data, self.take(8 * n_dims, what))
        return name, shape, self.u32(f"the type of {what}"), self.u64(f"the offset of {what}")

    def place(
        self,
        data_start: int,
        alignment: int,
        number: int,
        name: str,
        shape: tuple[int, ...],
        kind: int,
        offset: int,
    ) -> Tensor:
        what = f"tensor {number} ({_short(name)})"
        if kind not in TENSOR_TYPES:
            self.refuse(f"{what} has the type {kind}, which no weight has")
        type_ = TENSOR_TYPES[kind]
        n_elements = 1
        for size in shape:
            n_elements *= size
        if n_elements == 0 or n_elements >= 1 << 63:
            self.refuse(f"{what} has the impossible shape {list(shape)}")
        if shape[0] % type_.block:
            self.refuse(
                f"{what} has rows of {shape[0]}, and {type_.name} needs multiples of {type_.block}"
            )
        n_bytes = n_elements // type_.block * type_.n_bytes
        if offset % alignment:
            self.refuse(f"{what} is at offset {offset}, not a multiple of {alignment}")
        if data_start + offset + n_bytes > self.size:
            self.refuse(
                f"it is truncated: {what} needs {data_start + offset + n_bytes:,} bytes, the file "
                f"has {self.size:,}"
            )
        return Tensor(name, shape, type_.name, data_start + offset, n_bytes)

    def compare(self, tensors: tuple[Tensor, ...]) -> None:
        seen: set[str] = set()
        for tensor in tensors:
            if tensor.name in seen:
                self.refuse(f"the tensor {_short(tensor.name)} comes twice")
            seen.add(tensor.name)
        for one, two in pairwise(sorted(tensors, key=lambda tensor: tensor.offset)):
            if one.offset + one.n_bytes > two.offset:
                self.refuse(f"the tensors {_short(one.name)} and {_short(two.name)} overlap")


def _short(text: str) -> str:
    return repr(one_line(text, 60)).replace("\\\\", "\\")
