"""Ids to text as they come, and a fingerprint that two models are compared by."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.common.errors import ModelError, VocabularyMismatch
from uhlm_edge.lm.vocabulary import Kind, TextDecoder, Vocabulary, require_same

from ..fakes import END, FakeVocabulary


class Pieces(Vocabulary):
    def tokenize(self, text: str, special: bool = False) -> list[int]:
        raise NotImplementedError


def made_of(pieces: list[bytes], kinds: Sequence[int] | None = None) -> Pieces:
    return Pieces(pieces, kinds or [Kind.NORMAL] * len(pieces), [0])


VOCAB = FakeVocabulary()


@given(st.text(alphabet="aé漢🙂\n"))
def test_a_character_appears_when_its_last_byte_does(text: str) -> None:
    decoder = TextDecoder(VOCAB)
    seen = ""
    for token in VOCAB.tokenize(text):
        seen += decoder.feed(token)
        assert text.startswith(seen)
    assert seen == text
    assert decoder.end() == ""


@given(st.binary(max_size=40))
def test_any_bytes_give_the_text_that_they_give_at_once(raw: bytes) -> None:
    decoder = TextDecoder(VOCAB)
    pieces = [decoder.feed(token) for token in raw]
    assert "".join(pieces) + decoder.end() == VOCAB.text(raw) == raw.decode("utf-8", "replace")


def test_a_character_that_is_never_completed_is_shown_as_one() -> None:
    decoder = TextDecoder(VOCAB)
    assert [decoder.feed(token) for token in "🙂".encode()[:3]] == ["", "", ""]
    assert decoder.end() == "\ufffd"


def test_control_ids_add_no_text_and_do_not_break_a_character() -> None:
    (end,) = VOCAB.end_ids
    first, second = "é".encode()
    assert VOCAB.text([first, end, second, end]) == "é"
    assert VOCAB.pieces[end] == END.encode()


def test_padding_is_no_part_of_a_vocabulary() -> None:
    plain = made_of([b"a", b"b", b"c"])
    padded = made_of(
        [b"a", b"b", b"c", b"<pad0>", b"<pad1>"],
        [Kind.NORMAL] * 3 + [Kind.UNUSED, Kind.UNDEFINED],
    )
    assert padded.fingerprint == plain.fingerprint
    assert len(padded) == len(plain) == 3


def test_unused_ids_among_used_ones_count() -> None:
    vocab = made_of([b"a", b"b", b"c"], [Kind.NORMAL, Kind.UNUSED, Kind.NORMAL])
    assert len(vocab) == 3


@pytest.mark.parametrize(
    "other",
    [
        made_of([b"a", b"c", b"b"]),
        made_of([b"a", b"b"]),
        made_of([b"ab", b"", b"c"]),
        made_of([b"a", b"b", b"c"], [Kind.NORMAL, Kind.CONTROL, Kind.NORMAL]),
    ],
)
def test_other_ids_have_another_fingerprint(other: Vocabulary) -> None:
    assert other.fingerprint != made_of([b"a", b"b", b"c"]).fingerprint


def test_a_mismatch_names_both_models_and_what_differs() -> None:
    one, two = made_of([b"a", b"b"]), made_of([b"a", b"x"])
    require_same(one.fingerprint, one.fingerprint, "slm", "llm")
    with pytest.raises(VocabularyMismatch, match=r"slm \(device\) and llm \(cloud\).*meanings"):
        require_same(one.fingerprint, two.fingerprint, "slm", "llm")
    with pytest.raises(ModelError, match=r"slm.*llm.*2 and 257 ids"):
        require_same(one.fingerprint, VOCAB.fingerprint, "slm", "llm")
