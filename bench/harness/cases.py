"""Rows to answer, from a file of JSON lines: a conversation, and what a good reply is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import DataError
from ...lm.template import Message

__all__ = ["Case", "digest_of", "read_cases"]

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Case:
    """One row. Either `answer` (the one right reply) or `reference` (a good one) is there.

    Attributes:
        line: where it stands in the file, from 1.
        messages: the conversation so far, ending with the user's.
        answer: what the reply must equal.
        reference: what the reply is compared with.
    """

    line: int
    messages: tuple[Message, ...]
    answer: str | None = None
    reference: str | None = None


def read_cases(path: Path, limit: int | None = None) -> list[Case]:
    """All rows, or the first `limit`; the whole file is checked either way.

    Raises:
        DataError: the file cannot be read, is empty, or has a wrong row: the message says which
            line and what is wrong with it.
    """
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} rows leaves nothing to run")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    cases = [_case(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise DataError(f"{path}: holds no rows")
    return cases[:limit]


def digest_of(cases: Sequence[Case]) -> str:
    """What tells these rows from others."""
    return hashlib.blake2b(repr(cases).encode(), digest_size=8).hexdigest()


def _case(path: Path, line: int, text: str) -> Case:
    def wrong(reason: str) -> DataError:
        return DataError(f"{path}:{line}: {reason}")

    try:
        row: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong("not JSON") from None
    if not isinstance(row, dict):
        raise wrong("not a JSON object")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong('"messages" must be a list of {"role", "content"}')
    said = []
    for i, message in enumerate(messages, 1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise wrong(f"message {i}: role must be one of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str):
            raise wrong(f"message {i}: content must be text")
        said.append(Message(role=message["role"], content=message["content"]))
    if said[-1]["role"] != "user" or not said[-1]["content"].strip():
        raise wrong("the last message must be the user's, and say something")
    answer, reference = row.get("answer"), row.get("reference")
    if (answer is None) == (reference is None):
        raise wrong('either "answer" or "reference" must be there')
    wanted = reference if answer is None else answer
    if not isinstance(wanted, str) or not wanted.strip():
        raise wrong(f'"{"reference" if answer is None else "answer"}" must be text, not empty')
    return Case(line, tuple(said), answer, reference)
