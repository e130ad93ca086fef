"""Many prompts from a file of JSON lines, answered into another that may be there in part."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ...common.errors import CloudError, DataError, UhlmError
from ...common.prompts import Case, read_prompts
from ...configs.config import Config
from ..events import Notice
from ..link.protocol import Link
from .assemble import assemble
from .assistant import Assistant
from .binding import GrammarText, bound
from .show import tell


def batch(
    config: Config,
    prompts: Path,
    out: Path | None,
    link: Link | None = None,
    grammar: GrammarText | None = None,
) -> None:
    """Answer each row on its own, in order; each has the seed of its place.

    Args:
        config: all options.
        prompts: see `read_prompts`.
        out: a line per row is added; rows that are in it are left out. None: stdout.
        link: see `assemble`.
        grammar: that each answer must match.

    Raises:
        DataError: a wrong line.
        UhlmError: see `assemble`.
    """
    rows = read_prompts(prompts)
    done = _done(out) if out is not None else set[int]()
    if done:
        tell(f"{sum(row.line in done for row in rows)} of {len(rows)} are in {out} already")
    failed = 0
    with (
        assemble(config, tell, link) as assistant,
        bound(assistant, config, grammar),
        _opened(out) as stream,
    ):
        for n, row in enumerate(rows):
            if row.line in done:
                continue
            line = _answered(assistant, config, row, n)
            failed += "error" in line
            stream.write(json.dumps({"v": 1, "line": row.line, **line}) + "\n")
            stream.flush()
            _progress(n + 1, len(rows))
    if failed:
        raise UhlmError(f"{failed} of {len(rows)} rows could not be answered; see their lines")


def _answered(assistant: Assistant, config: Config, row: Case, n: int) -> dict[str, Any]:
    assistant.restart(n)
    try:
        for event in assistant.answer(row.messages):
            if isinstance(event, Notice):
                tell(event.text)
    except UhlmError as error:
        if isinstance(error, CloudError):
            raise
        return {"error": str(error)}
    stats = assistant.loop.stats if assistant.loop is not None else None
    if config.cloud.require and stats is not None and stats.offline_reason:
        raise CloudError(stats.offline_reason)
    return {
        "text": assistant.text,
        "finish_reason": assistant.finish_reason,
        "stats": assistant.costs(),
    }


def _done(out: Path) -> set[int]:
    """Lines that were answered. One that was not finished is cut off, to be written again."""
    try:
        raw = out.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataError(f"{out}: {error.strerror}") from None
    whole = raw.rfind(b"\n") + 1
    try:
        lines = {json.loads(line)["line"] for line in raw[:whole].splitlines()}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{out} holds something else than answers; name another file") from None
    if whole < len(raw):
        os.truncate(out, whole)
    return lines


@contextmanager
def _opened(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    try:
        stream = out.open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: {error.strerror}") from None
    with stream:
        yield stream


def _progress(n: int, of: int) -> None:
    """How far it is: in place on a terminal, else at each tenth."""
    if sys.stderr.isatty():
        print(f"\r{n} of {of}", end="\n" if n == of else "", file=sys.stderr, flush=True)
    elif n == of or n * 10 // of > (n - 1) * 10 // of:
        tell(f"{n} of {of}")
