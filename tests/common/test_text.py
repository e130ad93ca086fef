"""Text from outside cannot steer a terminal, and stays readable."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.common.text import harmless, one_line


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\bc\x7f", "a\\x0db\\x08c\\x7f"),
        ("a\u202eb\u2066c\u200f", "a\\u202eb\\u2066c\\u200f"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_controls_become_visible(hostile: str, shown: str) -> None:
    assert harmless(hostile) == shown


def test_ordinary_text_of_any_script_stays_as_it_is() -> None:
    text = "Zürich\t東京\nمرحبا 👩\u200d🚀 e\u0301 \\x1b"  # noqa: RUF001
    assert harmless(text) == text


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_steers_and_everything_can_be_encoded(text: str) -> None:
    safe = harmless(text)
    safe.encode()
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in safe)
    assert not any(unicodedata.bidirectional(c) in _BIDI for c in safe)


_BIDI = {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(st.characters(exclude_categories=())), st.integers(0, 20))
def test_text_in_pieces_is_as_harmless_as_whole(text: str, cut: int) -> None:
    assert harmless(text[:cut]) + harmless(text[cut:]) == harmless(text)


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 20))
def test_one_line_is_one_line_of_at_most_the_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
