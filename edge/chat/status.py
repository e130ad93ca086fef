"""A line at the foot of the terminal that says how a reply is going, while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from .terminal import Style

_LEAST_LINES = 6
_EVERY = 0.1  # seconds


class StatusLine:
    """Keeps the last line of the terminal out of the text's way: the text scrolls above it.

    Args:
        out: the terminal.
        size: its columns and lines now; None: it is none, and nothing is shown.
        style: of the line.
    """

    def __init__(
        self, out: TextIO, size: Callable[[], tuple[int, int] | None], style: Style
    ) -> None:
        self._out, self._size, self._style = out, size, style
        self._lines = 0  # of the terminal for which the margin is set; 0: none is
        self._next = 0.0

    @contextmanager
    def shown(self) -> Iterator[StatusLine]:
        """Show it for as long as the context lasts. Whatever ends that, the terminal is whole."""
        try:
            self._set_margin()
            yield self
        finally:
            self._clear()

    def show(self, text: str) -> None:
        """Say something else there, not oftener than people can read."""
        now = time.monotonic()
        if not self._lines or now < self._next:
            return
        self._next = now + _EVERY
        size = self._size()
        if size is None or size[1] != self._lines:  # it was resized
            self._clear()
            self._set_margin()
        if size is not None and self._lines:
            line = f"{self._style.dim}{text[: size[0] - 1]}{self._style.off}"
            self._out.write(f"\x1b7\x1b[{self._lines};1H\x1b[2K{line}\x1b8")
            self._out.flush()

    def _set_margin(self) -> None:
        size = self._size()
        if size is None or size[1] < _LEAST_LINES:
            return
        self._lines = size[1]
        # The line feed makes room if the cursor is on the last line. Setting the margins moves the
        # cursor, so it is kept.
        self._out.write(f"\n\x1b[1A\x1b7\x1b[1;{self._lines - 1}r\x1b8")
        self._out.flush()

    def _clear(self) -> None:
        if self._lines:
            self._out.write(f"\x1b7\x1b[r\x1b[{self._lines};1H\x1b[2K\x1b8")
            self._out.flush()
            self._lines = 0
