"""How cases are made of seeds, as hypothesis strategies, so that a failure is made small."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

__all__ = ["cases"]

EDGES = [bytes(8), b"\xff" * 8, b"\x00" * 7 + b"\x80", b"\xff" * 7 + b"\x7f", b"\x01" + bytes(7)]
ODD: list[Any] = [
    None, True, -1, 0, 1.5, 1e308, float("nan"), float("inf"), 2**31, 2**40, 2**63, 2**64, 10**400,
    "", "x", "\x00", "\x1b[2J", "\ud800", "../../x", "a" * 70_000, [], [[]], {}, {"a": 1}, [None],
]  # fmt: skip
WORDS = [
    "{% set ns = namespace(a=[1]) %}", "{% for i in range(34) %}", "{% endfor %}", "{{ ", " }}",
    "{% set ns.a = [ns.a, ns.a] %}", "ns.a == ns.a", "|string", "|tojson", "|sort", " ~ ", "{% if ",
    "{% endif %}", "{% macro m(x) %}", "{% endmacro %}", "m(1)", "'x' * 99999999", "messages",
    "[[", "]]", "\"\"\"", "= inf", "= nan", "= -1", "= 1e999", "\n[", "\n", "\x00", "\u202e", "}",
]  # fmt: skip


def cases(seeds: list[bytes], form: str) -> st.SearchStrategy[bytes]:
    """Seeds with some places changed, and now and then bytes of nothing."""
    changed = {"bytes": _bytes, "json": _json, "text": _text}[form](seeds)
    return st.one_of(changed, changed, changed, _bytes(seeds), st.binary(max_size=300))


@st.composite
def _bytes(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.integers(0, 4))
        if kind == 0 and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            patch = draw(st.sampled_from(EDGES))
            content[at : at + len(patch)] = patch
        elif kind == 2:
            del content[at : at + draw(st.integers(1, 32))]
        elif kind == 3:
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        else:
            content[at:at] = content[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 200))
    return bytes(content)


@st.composite
def _text(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    content = draw(st.sampled_from(seeds)).decode("utf-8", "replace")
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content)))
        new = draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)))
        content = content[:at] + new + content[at + draw(st.integers(0, 12)) :]
    return content.encode("utf-8", "surrogatepass")


@st.composite
def _json(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    value = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        new = draw(st.one_of(st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=5)))
        value = _replaced(draw, value, new)
    text = json.dumps(value)
    if draw(st.integers(0, 9)) == 0:  # nested too deeply, which dumps itself could not write
        depth = draw(st.sampled_from([100, 1_000, 100_000]))
        text = text.replace("1", "[" * depth + "]" * draw(st.sampled_from([0, depth])), 1)
    return text.encode("utf-8", "surrogatepass")


def _replaced(draw: st.DrawFn, value: Any, new: Any) -> Any:
    """The value with one part of it replaced, dropped or doubled, however deep it lies."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return new
    if isinstance(value, dict):
        key = draw(st.sampled_from(sorted(value)[:400]))
        if draw(st.integers(0, 5)) == 0:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _replaced(draw, value[key], new)}
    at = draw(st.integers(0, min(len(value), 400) - 1))
    if draw(st.integers(0, 5)) == 0:
        return value[:at] + value[at : at + 1] * draw(st.integers(0, 3)) + value[at + 1 :]
    return [*value[:at], _replaced(draw, value[at], new), *value[at + 1 :]]
