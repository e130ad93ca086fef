"""A reply on a terminal: who wrote which word, and one line of numbers after it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from ...common.text import harmless, human_bytes
from ..events import Token
from ..stats import Stats

_NARROWEST = 20  # columns: below, lines are left to the terminal


@dataclass(frozen=True)
class Style:
    """Escape sequences that begin each kind of text; "" where the device wrote plainly."""

    confirmed: str = ""
    replaced: str = ""
    unverified: str = ""
    dim: str = ""
    bold: str = ""
    off: str = ""
    names: tuple[str, str, str] = ("marked", "marked", "marked")

    @staticmethod
    def of(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Style:
        """Colours for a terminal, other marks where colours are unwanted, else nothing."""
        if not stream.isatty() or environment.get("TERM") == "dumb":
            return Style()
        if environment.get("NO_COLOR"):
            return Style(
                "\x1b[4m", "\x1b[1m", "\x1b[3m", "", "\x1b[1m", "\x1b[0m",
                ("underlined", "bold", "slanted"),
            )  # fmt: skip
        # Of middle brightness: each has a contrast of 3 and more on black and on white. They are
        # told apart with any kind of colour vision, and by line, weight and slant without any.
        return Style(
            "\x1b[4;38;5;32m", "\x1b[1;38;5;166m", "\x1b[3;38;5;133m", "\x1b[2m", "\x1b[1m",
            "\x1b[0m", ("underlined blue", "bold orange", "slanted purple"),
        )  # fmt: skip

    def mark(self, token: Token) -> str:
        """What begins a token's text: who wrote it, and whether the cloud looked at it."""
        if token.source == "cloud":
            return self.replaced
        if token.accepted:
            return self.confirmed
        return self.unverified if token.unverified else ""


class Terminal:
    """Writes tokens as they are committed. Text of a model is made harmless first.

    A word that reaches the edge is taken to the next line whole, so lines break where people
    break them.

    Args:
        out: where the answer goes.
        style: how provenance is shown.
        width: columns of the terminal, asked again at each token; None: no terminal, no lines.
    """

    def __init__(
        self, out: TextIO, style: Style, width: Callable[[], int | None] = lambda: None
    ) -> None:
        self._out = out
        self._style = style
        self._width = width
        self._begun = False
        self._column = 0
        self._word: list[tuple[str, str]] = []  # what the word at the cursor is made of

    def write(self, token: Token) -> None:
        """Show a committed token."""
        text = token.text if self._begun else token.text.lstrip()
        if not text:
            return
        self._begun = True
        mark, width = self._style.mark(token), self._width()
        if width is None or width < _NARROWEST:
            self._put(mark, harmless(text))
        else:
            for part in re.split(r"(\n|[ \t]+)", harmless(text)):
                self._place(mark, part.replace("\t", "    "), width - 1)
        self._out.flush()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Something else is said in lines of its own; the word at the cursor comes after it."""
        before = sum(_columns(text) for _, text in self._word)
        if before > self._column:  # it fills more than a line
            before, self._word = 0, []
        if self._column:
            back = f"\x1b[{before}D\x1b[K" if before else ""
            self._out.write(back if before == self._column else f"{back}\n")
            self._out.flush()
        yield
        for mark, text in self._word:
            self._put(mark, text)
        self._column = before

    def _place(self, mark: str, part: str, width: int) -> None:
        """A word or a part of one, spaces, or a line's end, at most `width` columns to a line."""
        if part == "\n" or (part.isspace() and self._column + len(part) > width):
            self._out.write("\n")
            self._column, self._word = 0, []
        elif part.isspace():
            self._put(mark, part)
            self._column, self._word = self._column + len(part), []
        elif part:
            before = sum(_columns(text) for _, text in self._word)
            columns = _columns(part)
            if self._column + columns > width >= before + columns and self._column > before:
                self._out.write(f"\x1b[{before}D\x1b[K\n" if before else "\n")
                for old, text in self._word:
                    self._put(old, text)
                self._column = before
            self._put(mark, part)
            self._word.append((mark, part))
            self._column = (self._column + columns) % (width + 1)

    def _put(self, mark: str, text: str) -> None:
        self._out.write(f"{mark}{text}{self._style.off}" if mark else text)


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return max(0, wcswidth(text))


def size_of(stream: TextIO, environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Columns and lines of a terminal that can be written all over; None if it is no such."""
    if not stream.isatty() or environment.get("TERM") == "dumb":
        return None
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return None
    return (columns, lines) if columns > 0 and lines > 0 else None


def fitted(text: str, stream: TextIO, indent: int = 0) -> str:
    """Lines as wide as the terminal at most, cut between words; elsewhere the text as it is.

    Args:
        text: may have marks; they take no room.
        stream: where it goes.
        indent: columns before what is carried over.
    """
    size = size_of(stream)
    if size is None or size[0] < _NARROWEST:
        return text
    width = size[0] - 1
    indent = indent if indent <= width - _NARROWEST else 4
    return "\n".join(_folded(line, width, indent) for line in text.split("\n"))


def _folded(line: str, width: int, indent: int) -> str:
    lines, column = [""], 0
    for part in re.split("( +)", line):
        columns = _columns(re.sub(r"\x1b\[[0-9;]*m", "", part))
        if column + columns > width and column > indent and not part.isspace():
            lines.append(" " * indent)
            column = indent
        lines[-1] += part
        column += columns
    return "\n".join(each.rstrip() for each in lines)


def legend(style: Style) -> str:
    """What the marks mean, in two lines; "" if there are none."""
    if not style.off:
        return ""
    marks = (style.confirmed, style.replaced, style.unverified)
    confirmed, replaced, unverified = (
        f"{mark}{name}{style.off}" for mark, name in zip(marks, style.names, strict=True)
    )
    return (
        f"plain: the device · {confirmed}: confirmed by the cloud\n"
        f"{replaced}: written by the cloud · {unverified}: asked about in vain"
    )


def summary(stats: Stats, style: Style, cut: bool = False) -> str:
    """The numbers of one reply in one line; `cut`: it ended at the limit of tokens."""
    parts = [counted(stats.tokens, "token"), f"{stats.tokens_per_s:.0f} tokens/s"]
    if stats.uploads:
        uploads = counted(stats.uploads, "upload")
        if stats.from_llm:
            uploads += f" ({_percent(stats.transmission_rate)} of the tokens)"
        parts.insert(1, uploads)
        parts.append(f"{stats.rejected} replaced")
        parts.append(f"{human_bytes(stats.uplink_bytes)} up")
    else:
        parts.insert(1, "no uploads")
    if stats.offline_reason:
        parts.append("partly without the cloud" if stats.uploads else "without the cloud")
    if cut:
        parts.append("cut off by --max-tokens")
    return f"{style.dim}[{' · '.join(parts)}]{style.off if style.dim else ''}"


def counted(n: int, noun: str) -> str:
    """As people say it: "1 upload", "2 uploads"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _percent(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"
