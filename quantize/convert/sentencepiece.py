"""A SentencePiece `tokenizer.model`, read without the library: a few fields of one protobuf.

Source: sentencepiece_model.proto. Only what a vocabulary needs is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import DataError, ModelError
from ...common.files import read_bounded

SPACE = "\u2581"
"""How SentencePiece writes a space."""

BPE = 2
_SIZE_LIMIT = 64 << 20
_KINDS = {0: "type 0", 1: "unigram", BPE: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class Piece:
    """Text, score and kind (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte)."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces in id order, and whether a text is given a leading space."""

    pieces: tuple[Piece, ...]
    add_dummy_prefix: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The vocabulary in a `tokenizer.model`.

    Raises:
        ModelError: it is damaged, or of another kind than BPE.
    """
    try:
        content = read_bounded(path, _SIZE_LIMIT)
    except DataError:
        raise ModelError(f"{path}: is too large for a tokenizer") from None
    pieces: list[Piece] = []
    kind, prefix = 1, True
    try:
        for number, value in _fields(content):
            if number == 1 and isinstance(value, bytes):
                pieces.append(_read_piece(value))
            elif number == 2 and isinstance(value, bytes):
                kind = next((int(v) for n, v in _fields(value) if n == 3), kind)
            elif number == 3 and isinstance(value, bytes):
                prefix = bool(dict(_fields(value)).get(3, True))
    except (ValueError, IndexError, struct.error, TypeError) as error:
        raise ModelError(f"{path}: is not a SentencePiece model, or a damaged one") from error
    if not pieces:
        raise ModelError(f"{path}: is not a SentencePiece model: there are no pieces in it")
    if kind != BPE:
        raise ModelError(
            f"{path}: a tokenizer of type SentencePiece {_KINDS.get(kind, f'type {kind}')} is not"
            " supported; SentencePiece bpe and byte-level BPE are"
        )
    return SentencePieceModel(tuple(pieces), prefix)


def _read_piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3:
            kind = int(value)
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one message: varints as int, all else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("a field ends behind the message")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
