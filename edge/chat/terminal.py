"""A reply on a terminal: who wrote which word, and one line of numbers after it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from ...common.text import harmless
from ..events import Token
from ..stats import Stats

__all__ = ["Style", "Terminal", "legend", "summary"]


@dataclass(frozen=True)
class Style:
    """Escape sequences that begin each kind of text; "" where the device wrote plainly."""

    confirmed: str = ""
    replaced: str = ""
    dim: str = ""
    bold: str = ""
    off: str = ""

    @staticmethod
    def of(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Style:
        """Colours for a terminal, underline and bold where colours are unwanted, else nothing."""
        if not stream.isatty() or environment.get("TERM") == "dumb":
            return Style()
        if environment.get("NO_COLOR"):
            return Style("\x1b[4m", "\x1b[1m", "", "\x1b[1m", "\x1b[0m")
        # Blue and orange: told apart with any kind of colour vision; the line under and the weight
        # tell them apart without any.
        return Style("\x1b[4;38;5;75m", "\x1b[1;38;5;214m", "\x1b[2m", "\x1b[1m", "\x1b[0m")


class Terminal:
    """Writes tokens as they settle. Text of a model is made harmless first.

    Args:
        out: where the answer goes.
        style: how provenance is shown.
    """

    def __init__(self, out: TextIO, style: Style) -> None:
        self._out = out
        self._style = style
        self._begun = False

    def write(self, token: Token) -> None:
        """Show a settled token."""
        text = token.text if self._begun else token.text.lstrip()
        if not text:
            return
        self._begun = True
        text = harmless(text)
        start = self._mark(token)
        self._out.write(f"{start}{text}{self._style.off}" if start else text)
        self._out.flush()

    def _mark(self, token: Token) -> str:
        if token.source == "cloud":
            return self._style.replaced
        return self._style.confirmed if token.accepted else ""

    def end(self) -> None:
        """Finish the line."""
        self._begun = False
        self._out.write("\n")
        self._out.flush()


def legend(style: Style) -> str:
    """What the marks mean, in one line; "" if there are none."""
    if not style.off:
        return ""
    return (
        f"plain: the device wrote it   {style.confirmed}marked{style.off}: the cloud confirmed it"
        f"   {style.replaced}marked{style.off}: the cloud wrote it"
    )


def summary(stats: Stats, style: Style) -> str:
    """The numbers of one reply in one line."""
    parts = [f"{stats.tokens} tokens", f"{stats.tokens_per_s:.0f} tokens/s"]
    if stats.uploads:
        percent = 100 * stats.transmission_rate
        uploads = "1 upload" if stats.uploads == 1 else f"{stats.uploads} uploads"
        parts.insert(1, f"{uploads} ({percent:.0f} % of the tokens)")
        parts.append(f"{stats.rejected} replaced")
        parts.append(f"{stats.uplink_bytes} bytes up")
    else:
        parts.insert(1, "no uploads")
    if stats.offline_reason:
        parts.append("partly without the cloud")
    return f"{style.dim}[{' · '.join(parts)}]{style.off}"
