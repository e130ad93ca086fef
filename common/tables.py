"""Rows out as Markdown, CSV, JSON or JSON lines. What was not measured is null, or empty."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from .errors import UsageError

Format = Literal["md", "csv", "json", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
Row = Mapping[str, Any]


def render(rows: Sequence[Row], form: str, columns: Sequence[str] | None = None) -> str:
    """The rows as text that ends with a newline. `columns` picks and orders those of md.

    csv, json and jsonl always carry every field.

    Raises:
        UsageError: an unknown format.
    """
    if form == "json":
        return json.dumps([_plain(row) for row in rows], indent=1, allow_nan=False) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows)
    if form == "csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in _plain(row).items()})
        return text.getvalue()
    if form == "md":
        return _markdown(rows, columns)
    raise UsageError(f"no format {form!r}; there are {', '.join(FORMATS)}")


def _markdown(rows: Sequence[Row], columns: Sequence[str] | None) -> str:
    rows = [_plain(row) for row in rows]
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    right = [any(isinstance(row.get(name), (int, float)) for row in rows) for name in names]
    cells = [names, *([_short(row.get(name)) for name in names] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * (width - 1) + (":" if r else "-") for width, r in zip(widths, right, strict=True)]
    lines = [cells[0], rule, *cells[1:]]
    padded = [map(_pad, line, widths, right) for line in lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in padded)


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _short(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if 1 <= abs(value) < 1e6 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _plain(row: Row) -> dict[str, Any]:
    """JSON has no infinities: a number that is not finite becomes null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value
