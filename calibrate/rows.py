"""What a run has measured so far, as JSON lines in a file: an interrupted one goes on there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..common.errors import DataError

R = TypeVar("R")


def rows_path(out: Path) -> Path:
    """Where the rows are kept while a run goes on, and after it: an endpoint may cost money."""
    return out.with_suffix(".rows.jsonl")


@contextmanager
def kept_rows(
    out: Path, header: str, read: Callable[[str], R]
) -> Iterator[tuple[list[R], Callable[[str], None]]]:
    """The rows of an interrupted run, and what adds the line of a further one.

    Args:
        out: what the run is going to write.
        header: what must be equal for a run to go on: the first line.
        read: the row of a line; it raises ValueError, KeyError or TypeError if there is none.

    Raises:
        DataError: the rows are of another run, or damaged. A last line that was cut off is not.
    """
    path = rows_path(out)
    rows = _resumed(path, header, read)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:

        def keep(line: str) -> None:
            file.write(line + "\n")
            file.flush()

        if file.tell() == 0:
            keep(header)
        yield rows, keep


def _resumed(path: Path, header: str, read: Callable[[str], R]) -> list[R]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    lines = content[:whole].decode("utf-8", "replace").splitlines()
    if lines and lines[0] != header:
        raise DataError(
            f"{path}: holds rows of other models, prompts or settings; remove it or choose another "
            "--out"
        )
    rows = []
    for i, line in enumerate(lines[1:], 2):
        try:
            rows.append(read(line))
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}:{i}: damaged; remove the file and run again") from None
    return rows
