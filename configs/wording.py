"""What is wrong with a value, in words that need no knowledge of how it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "text",
    "literal": "",
    "path": "a path",
    "list": "a list",
    "model": "an object",
    "dict": "an object",
    "is": "",
}
_BOUNDS = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"),
    "finite_number": ("", "finite"),
}

_WHOLE = {
    "missing": "is missing",
    "too_short": "must not be empty",
    "extra_forbidden": "is not supported; leave it out",
}


def requirement(errors: Sequence[Mapping[str, Any]]) -> str:
    """Say "must be a number, averse or prone", from pydantic's errors about one value."""
    wanted: list[str] = []
    bounds: list[str] = []
    other: list[str] = []
    for error in errors:
        kind, context = error["type"], error.get("ctx", {})
        if kind == "literal_error":
            wanted += context["expected"].replace("' or '", "', '").replace("'", "").split(", ")
        elif kind in _BOUNDS:
            name, words = _BOUNDS[kind]
            bounds.append(words.format(context.get(name)))
        elif kind in _WHOLE:
            return _WHOLE[kind]
        elif text := _TYPES.get(kind.split("_")[0]):
            wanted.append(text)
        else:
            text = error["msg"].removeprefix("Value error, ")
            other.append(text[:1].lower() + text[1:])
    if bounds:  # it is of the right kind already, but out of range
        return f"must be {' and '.join(dict.fromkeys(bounds))}"
    if wanted:
        *first, last = dict.fromkeys(wanted)
        return f"must be {', '.join(first)} or {last}" if first else f"must be {last}"
    return ", ".join(dict.fromkeys(other))
