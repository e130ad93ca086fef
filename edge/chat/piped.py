"""What comes over a pipe: a context for a question, prompts line by line."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from ...common.errors import DataError, UsageError
from ...common.files import read_stream
from ...common.prompts import MOST_TEXT, read_text
from ...common.text import human_bytes
from .keyboard import unquoted

_QUOTES = '"""'
_PLACE = "{prompt}"


def question(prompt: str | None) -> str:
    """The whole of what is asked: the argument, stdin for "-" or no argument, or both.

    Data that is piped in beside an argument is its context and follows it.

    Raises:
        UsageError: stdin is not UTF-8 or too long, or there is neither argument nor data.
    """
    if prompt == "-":
        return read_stdin()
    data = read_stdin() if _is_piped() else ""
    if prompt is None:
        if not data and not _is_piped():
            raise UsageError("nothing to answer: give a prompt, or pipe one in")
        return data
    return f"{prompt}\n\n{data}" if data and prompt.strip() else prompt


def filled(template: Path | None, prompt: str) -> str:
    """The text of a file with the prompt where it says {prompt}; the prompt if there is no file.

    Raises:
        DataError: it cannot be read, or names no place for the prompt.
    """
    if template is None:
        return prompt
    text = read_text(template, MOST_TEXT)
    if _PLACE not in text:
        raise DataError(f"{template} has no {_PLACE}: say where the prompt goes")
    return text.replace(_PLACE, prompt)


def _is_piped() -> bool:
    """Is stdin a pipe or a file? Nothing else is read without being asked to: it may not end."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (io.UnsupportedOperation, ValueError, OSError):
        return hasattr(sys.stdin, "buffer") and not sys.stdin.isatty()
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def read_stdin() -> str:
    """All of stdin as text.

    Raises:
        UsageError: it is not UTF-8, or longer than a text may be.
    """
    raw = read_stream(sys.stdin.buffer, MOST_TEXT, "stdin")
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"stdin is not UTF-8 (byte {error.start + 1}); convert it, for instance by iconv"
        ) from None


def lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of stdin, none longer than a text may be.

    Raises:
        DataError: one is.
    """
    while line := stream.readline(MOST_TEXT + 1):
        if len(line) > MOST_TEXT:
            most = human_bytes(MOST_TEXT)
            raise DataError(f"stdin: a line larger than {most}; give a part of it")
        yield line


def turns(lines: Iterable[bytes], tell: Callable[[str], None]) -> Iterator[str]:
    """A prompt for each line that is not empty; lines between triple quotes are one prompt.

    Raises:
        DataError: what is between quotes is longer than a text may be.
    """
    block: list[str] | None = None
    quotes = size = 0
    for raw in lines:
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            tell("a line of stdin is not UTF-8 and is left out; convert it, for instance by iconv")
            continue
        if block is not None:
            block.append(line)
        elif line.lstrip().startswith(_QUOTES):
            block, quotes, size = [line], 0, 0
        elif line.strip():
            yield line.strip()
        if block is None:
            continue
        quotes, size = quotes + line.count(_QUOTES), size + len(raw)
        if size > MOST_TEXT:
            raise DataError(f"stdin: between {_QUOTES} is more than {human_bytes(MOST_TEXT)}")
        if quotes % 2 == 0:
            if said := unquoted("\n".join(block)):
                yield said
            block = None
    if block and (said := unquoted("\n".join(block))):  # the closing quotes were forgotten
        yield said
