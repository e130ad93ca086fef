"""Stop texts against a search in the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.edge.api.stops import until_stop
from uhlm_edge.edge.events import Token

TEXT = st.text("ab", max_size=4)


def tokens(pieces: list[str]) -> list[Token]:
    return [
        Token(i, 0, text, "edge", None, False, None, False, 0.0) for i, text in enumerate(pieces)
    ]


@given(st.lists(TEXT, max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    whole, out, hit = "".join(pieces), [], False
    made = until_stop(tokens(pieces), stops)
    while True:
        try:
            out.append(next(made))
        except StopIteration as end:
            hit = end.value
            break
    # The first stop to be complete ends the text, token by token.
    first = None
    for n in range(len(pieces) + 1):
        text = "".join(pieces[:n])
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            first = min(found)
            break
    assert hit is (first is not None)
    assert "".join(token.text for token in out) == whole[:first]
    assert [token.index for token in out] == list(range(len(out)))


@given(st.lists(TEXT, min_size=1, max_size=12))
def test_without_a_stop_in_sight_nothing_is_held_back(pieces: list[str]) -> None:
    made = until_stop(iter(tokens(pieces)), ["c"])
    for piece in pieces:
        assert next(made).text == piece
