"""Who wrote which word is seen at a glance, and nothing a model writes steers the terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from uhlm_edge.edge.chat.terminal import Style, Terminal, legend, summary
from uhlm_edge.edge.events import Token
from uhlm_edge.edge.stats import Stats

PLAIN = Token(0, 5, "word", "edge", 0.0, uploaded=False, accepted=None, unverified=False, time=0.0)
CONFIRMED = replace(PLAIN, uploaded=True, accepted=True)
REPLACED = replace(PLAIN, source="cloud", uploaded=True, accepted=False)
STYLE = Style("<c>", "<r>", "<d>", "<b>", "</>")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(*tokens: Token, style: Style = STYLE) -> str:
    out = io.StringIO()
    terminal = Terminal(out, style)
    for token in tokens:
        terminal.write(token)
    return out.getvalue()


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (PLAIN, "word"),
        (CONFIRMED, "<c>word</>"),
        (REPLACED, "<r>word</>"),
        (replace(REPLACED, accepted=None), "<r>word</>"),  # supplied
        (replace(CONFIRMED, accepted=None), "word"),  # the call failed: not confirmed
    ],
)
def test_each_source_has_its_mark(token: Token, expected: str) -> None:
    assert shown(token) == expected
    assert shown(token, style=Style()) == "word"


def test_a_reply_does_not_begin_with_space_and_keeps_the_rest() -> None:
    tokens = [replace(PLAIN, text=text) for text in ("", " ", "\n A", " b", "\n", " c")]
    assert shown(*tokens) == "A b\n c"


@pytest.mark.parametrize("parts", [["\x1b[2J"], ["\x1b", "[2J"], ["\x1b[", "2", "J"]])
def test_escapes_of_a_model_are_shown_and_not_obeyed(parts: list[str]) -> None:
    assert shown(*(replace(PLAIN, text=part) for part in parts)) == "\\x1b[2J"


def test_a_file_or_a_dumb_terminal_gets_no_marks() -> None:
    assert Style.of(io.StringIO(), {}) == Style()
    assert Style.of(Tty(), {"TERM": "dumb"}) == Style()
    assert legend(Style()) == ""


def test_without_colours_the_marks_still_differ() -> None:
    style = Style.of(Tty(), {"NO_COLOR": "1"})
    marks = {style.confirmed, style.replaced, ""}
    assert len(marks) == 3
    assert max(map(int, re.findall(r"\d+", "".join(marks)))) < 30  # colours begin there


def test_an_empty_no_color_is_none() -> None:
    assert Style.of(Tty(), {"NO_COLOR": ""}) == Style.of(Tty(), {})


def test_colours_differ_by_more_than_colour() -> None:
    style = Style.of(Tty(), {"TERM": "xterm"})
    assert style.confirmed.startswith("\x1b[4;")  # a line under it
    assert style.replaced.startswith("\x1b[1;")  # weight


def test_the_legend_shows_each_mark_as_it_is_used() -> None:
    line = legend(STYLE)
    assert "<c>marked</>: the cloud confirmed it" in line
    assert "<r>marked</>: the cloud wrote it" in line
    assert "\n" not in line


def test_the_summary_is_one_line_with_the_numbers() -> None:
    stats = Stats("uhlm", tokens=20, uploads=3, from_llm=3, rejected=1, elapsed=2.0)
    stats.uplink_bytes = 120
    line = summary(stats, STYLE)
    assert line.startswith("<d>[20 tokens · 3 uploads (15 % of the tokens) · 10 tokens/s")
    assert "1 replaced · 120 bytes up" in line
    assert "without the cloud" not in line
    stats.offline_reason = "gone"
    assert "without the cloud" in summary(stats, STYLE)


def test_the_summary_of_a_local_reply_speaks_of_no_uploads() -> None:
    line = summary(Stats("local", tokens=4, elapsed=1.0), Style())
    assert line == "[4 tokens · no uploads · 4 tokens/s]"
