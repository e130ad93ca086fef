"""Conversations to answer, from files: JSON lines or a prompt per line. The one reader of these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from .errors import DataError
from .files import read_bounded

_ROLES = ("system", "user", "assistant")
_MOST_BYTES = 256_000_000

MOST_TEXT = 16_000_000
"""Bytes of one text, a prompt or a grammar: more than the context of any model holds."""


class Message(TypedDict):
    """One message of a conversation; role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Case:
    """A conversation that ends with the user's message, and what a good reply to it is.

    Attributes:
        line: where it stands in the file, from 1.
        messages: the conversation so far.
        answer: what the reply must equal, if there is one right reply.
        reference: a good reply, to compare with.
        conversation: the same for prompts that are one dialogue; the line if the file says nothing.
    """

    line: int
    messages: tuple[Message, ...]
    answer: str | None = None
    reference: str | None = None
    conversation: int = 0


def asked(texts: Iterable[str]) -> list[list[Message]]:
    """A conversation of one message for each text."""
    return [[Message(role="user", content=text)] for text in texts]


def shipped_prompts(name: str) -> Path:
    """A path that is there, else the shipped prompts of that name (tasks, dialogues, ...)."""
    path = Path(name).expanduser()
    shipped = Path(__file__).parent / "data" / f"{name}.jsonl"
    return path if path.exists() or "/" in name or not shipped.is_file() else shipped


def read_prompts(path: Path, limit: int | None = None, scored: bool = False) -> list[Case]:
    """All prompts, or the first `limit`; the whole file is checked either way.

    A line of JSON has `messages` (role, content) or a `prompt`, perhaps `conversation` (a number
    that the prompts of one dialogue share), and `answer` or `reference`. A file whose name ends
    with .txt has a prompt per line.

    Args:
        path: the file.
        limit: how many to return.
        scored: refuse prompts without `answer` and `reference`.

    Raises:
        DataError: the file cannot be read, is empty, or has a wrong line: the message says which
            and what is wrong with it.
    """
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} rows leaves nothing to run")
    if path.suffix == ".txt" and not scored:
        found = [
            Case(i, (Message(role="user", content=line.strip()),), conversation=i)
            for i, line in enumerate(read_text(path).split("\n"), 1)
            if line.strip()
        ]
    else:
        found = [_prompt(path, line, row, scored) for line, row in json_rows(path)]
    if not found:
        raise DataError(f"{path}: holds no prompts")
    return found[:limit]


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object.
    """
    for i, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}:{i}: not JSON") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{i}: not a JSON object")
        yield i, row


def messages_of(row: dict[str, Any], place: str) -> list[Message]:
    """The conversation of a row.

    Raises:
        DataError: there is none, or a message is wrong; the text begins with `place`.
    """
    if isinstance(row.get("prompt"), str) and "messages" not in row:
        return [Message(role="user", content=row["prompt"])]
    if "messages" not in row:
        wrong = '"prompt" must be text' if "prompt" in row else 'give "prompt" or "messages"'
        raise DataError(f"{place}: {wrong}")
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{place}: "messages" must be a list of {{"role", "content"}}')
    said = []
    for i, message in enumerate(messages, 1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise DataError(f"{place}: message {i}: role must be one of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str):
            raise DataError(f"{place}: message {i}: content must be text")
        said.append(Message(role=message["role"], content=message["content"]))
    return said


def _prompt(path: Path, line: int, row: dict[str, Any], scored: bool) -> Case:
    place = f"{path}:{line}"
    said = messages_of(row, place)
    if said[-1]["role"] != "user" or not said[-1]["content"].strip():
        raise DataError(f"{place}: the last message must be the user's, and say something")
    answer, reference = row.get("answer"), row.get("reference")
    if (scored and answer is None and reference is None) or None not in (answer, reference):
        raise DataError(f'{place}: either "answer" or "reference" must be there')
    for name, text in (("answer", answer), ("reference", reference)):
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise DataError(f'{place}: "{name}" must be text, not empty')
    number = row.get("conversation", line)
    if not isinstance(number, int):
        raise DataError(f'{place}: "conversation" must be a whole number')
    return Case(line, tuple(said), answer, reference, number)


def read_text(path: Path, most: int = _MOST_BYTES) -> str:
    """A file of text, of at most so many bytes.

    Raises:
        DataError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        return read_bounded(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
