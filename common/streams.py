"""The process's standard streams when they fail: closed, full, or nobody reads them any more."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import textwrap
from typing import TextIO

from .text import harmless, one_line

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def open_closed_streams() -> None:
    """Give stdin, stdout and stderr that were closed by whoever started us something harmless.

    Otherwise Python has None for them, and the next file or socket gets their number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order, each gets the lowest number: its own
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def write_failure(error: OSError) -> str | None:
    """What to tell the user if `error` is a stream that takes no more; None if it is not."""
    if isinstance(error, BrokenPipeError):
        return "stdout was closed before everything was written; the rest is lost"
    if error.errno in _FULL:
        return f"cannot write ({error.strerror}); the rest is lost"
    return None


def discard_stdout() -> None:
    """Let stdout lead nowhere: Python would complain again when it flushes it at the end."""
    _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def emit(text: object, err: bool = False, end: str = "\n") -> None:
    """Print, made harmless to a terminal: the one way out for what may come from outside."""
    print(harmless(str(text)), file=sys.stderr if err else sys.stdout, end=end, flush=True)


def complain(text: str) -> None:
    """One line on stderr, made harmless. That stderr takes no more is no reason to fail."""
    try:
        print(_wrapped(f"uhlm-edge: {one_line(text)}"), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _wrapped(line: str) -> str:
    """The line cut between words where a terminal would cut it anywhere; elsewhere it is whole."""
    if not sys.stderr.isatty():
        return line
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return line
    if columns < len("uhlm-edge: ") * 2:  # also 0: it does not know
        return line
    return textwrap.fill(line, columns - 1, break_long_words=False, break_on_hyphens=False)
