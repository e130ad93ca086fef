"""Vocabulary: ids to bytes, which ids end the text, and a fingerprint to compare two models by."""

from __future__ import annotations

import codecs
import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import cached_property

from ..common.errors import VocabularyMismatch


class Kind(IntEnum):
    """What an id is. The numbers are those of GGUF's `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


Fingerprint = tuple[int, str]
"""(n, hash): n is one past the last id in use, hash covers bytes and kind of ids 0..n-1."""


class Vocabulary(ABC):
    """The ids of a model. Engines subclass it with their own `tokenize`.

    Args:
        pieces: the bytes of each id, length V; control ids have their name ("<|end|>").
        kinds: the kind of each id, length V.
        end_ids: the ids that end a text.
        template: the model's chat template (Jinja), None if the file has none.
        bos: text of the begin-of-text id, "" if there is none.
        eos: text of the end-of-text id, "" if there is none.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        kinds: Sequence[int],
        end_ids: Iterable[int],
        template: str | None = None,
        bos: str = "",
        eos: str = "",
    ) -> None:
        self.pieces = pieces
        self.kinds = kinds
        self.end_ids = frozenset(end_ids)
        self.template = template
        self.bos = bos
        self.eos = eos

    def __len__(self) -> int:
        """V: the ids in use, and so the width of a row of logits. Padding is cut off."""
        return self.n_used

    @abstractmethod
    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`, with nothing added in front.

        With `special=False`, what looks like a control token ("<|end|>") stays text: that is for
        what people typed. Chat templates need `special=True`.
        """

    @cached_property
    def n_used(self) -> int:
        """One past the last id that is not padding: families pad V to different multiples."""
        n = len(self.kinds)
        while n and self.kinds[n - 1] in (Kind.UNUSED, Kind.UNDEFINED):
            n -= 1
        return n

    @cached_property
    def control_names(self) -> list[str]:
        """The names of the control ids ("<|end|>")."""
        return [
            piece.decode("utf-8", "replace")
            for piece, kind in zip(self.pieces, self.kinds, strict=True)
            if kind == Kind.CONTROL and piece
        ]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Equal for two models exactly when the ids they use mean the same."""
        digest = hashlib.blake2b(digest_size=16)
        for piece, kind in zip(self.pieces[: self.n_used], self.kinds, strict=False):
            digest.update(struct.pack("<IB", len(piece), kind))
            digest.update(piece)
        return self.n_used, digest.hexdigest()

    def text_bytes(self, token: int) -> bytes:
        """What `token` adds to a text that a person reads: nothing for control ids."""
        if self.kinds[token] in (Kind.CONTROL, Kind.UNUSED, Kind.UNDEFINED):
            return b""
        return self.pieces[token]

    def text(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.text_bytes, tokens)).decode("utf-8", "replace")


class TextDecoder:
    """Ids to text as they come: a character of several ids appears when it is complete."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes, often all of its own, sometimes none."""
        return self._decoder.decode(self._vocab.text_bytes(token))

    def end(self) -> str:
        """What is left at the end of a text: "" or U+FFFD."""
        return self._decoder.decode(b"", final=True)


def require_same(
    device: Fingerprint, cloud: Fingerprint, device_name: str, cloud_name: str
) -> None:
    """Refuse a pair that does not share a vocabulary.

    Raises:
        VocabularyMismatch: the message names both models.
    """
    if device != cloud:
        what = (
            f"{device[0]} and {cloud[0]} ids"
            if device[0] != cloud[0]
            else "the same number of ids, with different meanings"
        )
        raise VocabularyMismatch(
            f"{device_name} (device) and {cloud_name} (cloud) do not share a vocabulary: {what}; "
            "use two models of one family"
        )
