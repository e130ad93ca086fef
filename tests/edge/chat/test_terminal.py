"""Who wrote which word is seen at a glance, and nothing a model writes steers the terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.edge.chat import terminal
from uhlm_edge.edge.chat.terminal import Style, Terminal, fitted, legend, summary
from uhlm_edge.edge.events import Token
from uhlm_edge.edge.stats import Stats

PLAIN = Token(0, 5, "word", "edge", 0.0, uploaded=False, accepted=None, unverified=False, time=0.0)
CONFIRMED = replace(PLAIN, uploaded=True, accepted=True)
REPLACED = replace(PLAIN, source="cloud", uploaded=True, accepted=False)
STYLE = Style("<c>", "<r>", "<u>", "<d>", "<b>", "</>", ("one", "two", "three"))


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
        (replace(CONFIRMED, accepted=None, unverified=True), "<u>word</>"),  # no answer
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
    marks = {style.confirmed, style.replaced, style.unverified, ""}
    assert len(marks) == 4
    assert max(map(int, re.findall(r"\d+", "".join(marks)))) < 30  # colours begin there


def test_an_empty_no_color_is_none() -> None:
    assert Style.of(Tty(), {"NO_COLOR": ""}) == Style.of(Tty(), {})


def test_colours_differ_by_more_than_colour() -> None:
    style = Style.of(Tty(), {"TERM": "xterm"})
    assert style.confirmed.startswith("\x1b[4;")  # a line under it
    assert style.replaced.startswith("\x1b[1;")  # weight
    assert style.unverified.startswith("\x1b[3;")  # slant


def luminance(colour: int) -> float:
    """Of an entry of the 256 colours' cube, relative to white (WCAG 2)."""
    steps = (0, 95, 135, 175, 215, 255)
    levels = [steps[(colour - 16) // 36], steps[(colour - 16) // 6 % 6], steps[(colour - 16) % 6]]
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_can_be_read_on_black_and_on_white() -> None:
    style = Style.of(Tty(), {"TERM": "xterm"})
    for mark in (style.confirmed, style.replaced, style.unverified):
        light = luminance(int(re.findall(r"38;5;(\d+)m", mark)[0]))
        assert (light + 0.05) / 0.05 >= 3.0
        assert 1.05 / (light + 0.05) >= 3.0


def test_the_legend_names_each_mark_and_shows_it() -> None:
    text = legend(STYLE)
    assert "plain: the device" in text
    assert "<c>one</>: confirmed by the cloud" in text
    assert "<r>two</>: written by the cloud" in text
    assert "<u>three</>: asked about in vain" in text
    for environment in ({}, {"NO_COLOR": "1"}):
        lines = legend(Style.of(Tty(), environment)).splitlines()
        assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines) < 80


def test_the_summary_is_one_line_with_the_numbers() -> None:
    stats = Stats("uhlm", tokens=20, uploads=3, from_llm=3, rejected=1, elapsed=2.0)
    stats.uplink_bytes = 120
    line = summary(stats, STYLE)
    assert line.startswith("<d>[20 tokens · 3 uploads (15 % of the tokens) · 10 tokens/s")
    assert "1 replaced · 120 B up" in line
    assert "without the cloud" not in line
    stats.offline_reason = "gone"
    assert " · partly without the cloud]" in summary(stats, STYLE)
    stats.uploads = 0
    assert " · without the cloud]" in summary(stats, STYLE)


def test_the_summary_of_a_local_reply_speaks_of_no_uploads() -> None:
    line = summary(Stats("local", tokens=4, elapsed=1.0), Style())
    assert line == "[4 tokens · no uploads · 4 tokens/s]"


def test_a_single_upload_of_a_long_reply_is_less_than_a_percent() -> None:
    stats = Stats("uhlm", tokens=300, uploads=1, from_llm=1, elapsed=1.0)
    assert "· 1 upload (less than 1 % of the tokens) ·" in summary(stats, Style())
    stats.from_llm = 0  # it failed
    assert "· 1 upload ·" in summary(stats, Style())


def test_a_reply_that_was_cut_says_so() -> None:
    stats = Stats("local", tokens=1, elapsed=1.0)
    assert summary(stats, Style(), cut=True) == (
        "[1 token · no uploads · 1 tokens/s · cut off by --max-tokens]"
    )


def screen(written: str, columns: int) -> list[str]:
    """What a terminal shows of text with the few sequences that are used."""
    lines, column = [""], 0
    for part in re.findall(r"\x1b\[(?:\d+D|K)|.|\n", written, re.DOTALL):
        if part.endswith("D") and len(part) > 1:
            column -= int(part[2:-1])
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif part == "\n":
            lines.append("")
            column = 0
        else:
            if column == columns:
                lines.append("")
                column = 0
            lines[-1] = lines[-1][:column] + part
            column += 1
    return lines


@given(
    st.lists(st.text("ab \n", min_size=1, max_size=9), max_size=30),
    st.integers(20, 40),
)
def test_lines_break_between_words_wherever_tokens_do(pieces: list[str], columns: int) -> None:
    out = io.StringIO()
    terminal = Terminal(out, Style(), lambda: columns)
    for piece in pieces:
        terminal.write(replace(PLAIN, text=piece))
    text = "".join(pieces).lstrip()
    shown = screen(out.getvalue(), columns)
    assert [word for line in shown for word in line.split()] == [
        part
        for word in text.split()
        for part in ([word] if len(word) < columns else pieces_of(word, shown))
    ]
    assert all(len(line) <= columns for line in shown)


def pieces_of(word: str, shown: list[str]) -> list[str]:
    """A word longer than a line is cut somewhere: accept where the terminal cut it."""
    found: list[str] = []
    for part in (part for line in shown for part in line.split()):
        if "".join([*found, part]) == word[: len("".join(found)) + len(part)]:
            found.append(part)
        if "".join(found) == word:
            return found
    return [word]


def test_a_mark_is_kept_when_its_word_moves_to_the_next_line() -> None:
    out = io.StringIO()
    terminal = Terminal(out, STYLE, lambda: 20)
    for token in (replace(PLAIN, text="aaaa bbbb cccc d"), replace(REPLACED, text="ddddd")):
        terminal.write(token)
    assert out.getvalue() == "aaaa bbbb cccc d\x1b[1D\x1b[K\nd<r>ddddd</>"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("It's called Best", ["It's called ", "NOTICE", "Best Western"]),
        ("It's called", ["It's ", "NOTICE", "called Western"]),
        ("Best", ["NOTICE", "Best Western"]),
        ("Hello.\n", ["Hello.", "NOTICE", " Western"]),
        ("", ["NOTICE", "Western"]),
    ],
)
def test_what_is_said_beside_a_reply_has_a_line_of_its_own_and_cuts_no_word(
    said: str, shown: list[str]
) -> None:
    out = io.StringIO()
    terminal = Terminal(out, Style(), lambda: 20)
    terminal.write(replace(PLAIN, text=said))
    with terminal.aside():
        out.write("NOTICE\n")
    terminal.write(replace(PLAIN, text=" Western"))
    assert screen(out.getvalue(), 20) == shown


def test_lines_fit_the_terminal_and_marks_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "size_of", lambda _: (31, 24))
    text = (
        "  1 a word     then some more that goes on\n\x1b[1mtwo words of it\x1b[0m, all in one line"
    )
    assert fitted(text, Tty(), indent=6) == (
        "  1 a word     then some more\n      that goes on\n"
        "\x1b[1mtwo words of it\x1b[0m, all in one\n      line"
    )
    assert fitted("x" * 40, Tty()) == "x" * 40  # a word alone is left to the terminal
    monkeypatch.setattr(terminal, "size_of", lambda _: None)
    assert fitted(text, Tty()) == text
