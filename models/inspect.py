"""Print the header of a GGUF file in a readable way: `uhlm-edge inspect FILE`.

Everything in it is the file's own word, checked for form and made harmless to a terminal.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

from ..common.text import human_bytes, one_line
from ..lm.gguf.check import check
from ..lm.gguf.header import ArraySummary, Header, Tensor, Value

VALUE_WIDTH = 72
SHAPES_SHOWN = 6


def inspect(path: str | os.PathLike[str], tensors: bool = False) -> str:
    """Check a GGUF file and return its header as text; with `tensors`, every tensor too.

    Raises:
        ModelError: the file is refused.
    """
    return render(check(path), tensors)


def render(header: Header, tensors: bool = False) -> str:
    """Return a header as text: a summary, the metadata, the tensors grouped by type."""
    blocks = [
        _table(_summary(header)),
        "metadata\n"
        + _table(
            [(one_line(key, VALUE_WIDTH), _show(value)) for key, value in header.metadata.items()]
        ),
        "tensors by type\n" + _table(_groups(header), right=(1, 2, 3, 4)),
    ]
    if tensors:
        rows = [
            (one.name, one.type, _shape(one), human_bytes(one.n_bytes)) for one in header.tensors
        ]
        blocks.append("tensors\n" + _table(rows, right=(3,)))
    return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def _summary(header: Header) -> list[tuple[str, ...]]:
    context = header.metadata.get(f"{header.architecture}.context_length")
    bits = 8 * sum(tensor.n_bytes for tensor in header.tensors) / max(header.parameters, 1)
    rows = [
        ("name", header.text("general.name")),
        ("architecture", header.architecture),
        ("parameters", f"{header.parameters:,}"),
        ("quantisation", f"{header.file_type or 'not said'}, {bits:.2f} bits per weight"),
        ("context", f"{context:,} tokens" if isinstance(context, int) else None),
        ("vocabulary", f"{header.n_vocab:,} tokens" if header.n_vocab is not None else None),
        ("licence", header.text("general.license")),
        ("file", f"{human_bytes(header.file_size)}, GGUF version {header.version}"),
        ("parts", str(header.n_parts) if header.n_parts > 1 else None),
    ]
    return [(name, one_line(value, VALUE_WIDTH)) for name, value in rows if value is not None]


def _show(value: Value) -> str:
    if isinstance(value, ArraySummary):
        items = ", ".join(_show(item) for item in value.head[:SHAPES_SHOWN])
        more = ", …" if value.length > SHAPES_SHOWN else ""
        return one_line(f"{value.length:,} x {value.type}: [{items}{more}]", VALUE_WIDTH)
    if isinstance(value, str):
        if len(value) > VALUE_WIDTH - 2:
            return one_line(f'{len(value):,} characters: "{value}', VALUE_WIDTH)
        return one_line(f'"{value}"', VALUE_WIDTH)
    return f"{value:.9g}" if isinstance(value, float) else str(value).lower()


def _groups(header: Header) -> list[tuple[str, ...]]:
    groups: defaultdict[str, list[Tensor]] = defaultdict(list)
    for tensor in header.tensors:
        groups[tensor.type].append(tensor)
    total = max(sum(tensor.n_bytes for tensor in header.tensors), 1)
    rows: list[tuple[str, ...]] = [("type", "tensors", "weights", "size", "share", "shapes")]
    for kind, tensors in sorted(groups.items(), key=lambda item: -_bytes(item[1])):
        shapes = dict.fromkeys(_shape(tensor) for tensor in tensors)
        shown = ", ".join(list(shapes)[:SHAPES_SHOWN]) + (
            ", …" if len(shapes) > SHAPES_SHOWN else ""
        )
        weights = sum(tensor.n_elements for tensor in tensors)
        share = f"{_bytes(tensors) / total:.1%}"
        rows.append(
            (kind, str(len(tensors)), f"{weights:,}", human_bytes(_bytes(tensors)), share, shown)
        )
    return rows


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.n_bytes for tensor in tensors)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape)


def _table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; `right` are aligned to the right."""
    if not rows:
        return "  none"
    rows = [tuple(map(one_line, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join("  " + line.rstrip() for line in lines)
