"""One self-contained HTML page from a folder of results: tables, pictures, device and build."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ...common.errors import DataError

__all__ = ["Section", "read_sections", "render_page"]

Section = tuple[str, list[Mapping[str, Any]], str | None]
"""(name, rows, picture as base64 PNG or None)."""

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: 1rem 0; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
dt { float: left; clear: left; width: 11rem; color: #555; }
@media print { .wide { overflow: visible; } table { font-size: 70%; } }
</style>
<h1>{{ title }}</h1>
<dl>
{% for name, value in facts.items() %}<dt>{{ name }}</dt><dd>{{ value | show }}</dd>
{% endfor %}</dl>
{% for name, rows, picture in sections %}
<h2>{{ name }}</h2>
{% if rows %}<div class="wide"><table>
<tr>{% for column in rows | columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for column in rows | columns %}<td>{{ row.get(column) | show }}</td>\
{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% if picture %}<img alt="{{ name }}" src="data:image/png;base64,{{ picture }}">{% endif %}
{% endfor %}
</html>
"""


def read_sections(folder: Path) -> list[Section]:
    """Results (`*.json`, a list of rows) and pictures (`*.png`) of a folder, by name.

    Raises:
        DataError: the folder holds none, or a file is no list of rows.
    """
    tables = {path.stem: _rows(path) for path in sorted(folder.glob("*.json"))}
    pictures = {path.stem: path for path in sorted(folder.glob("*.png"))}
    if not tables and not pictures:
        raise DataError(f"{folder}: no results (*.json, *.png) to report on")
    return [
        (
            name,
            tables.get(name, []),
            base64.b64encode(pictures[name].read_bytes()).decode() if name in pictures else None,
        )
        for name in sorted({*tables, *pictures})
    ]


def render_page(title: str, facts: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The page. Whatever stands in the results is escaped.

    Args:
        title: of the page.
        facts: device and build.
        sections: in order.
    """
    environment = jinja2.Environment(autoescape=True)
    environment.filters["show"] = _show
    environment.filters["columns"] = _columns
    return environment.from_string(_PAGE).render(title=title, facts=facts, sections=sections)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: not a list of rows, as the benchmarks write it")
    return rows


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fields of any row, in order, without nested ones and those that are always empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    plain = (type(None), bool, int, float, str)
    return [
        name
        for name in names
        if all(isinstance(row.get(name), plain) for row in rows)
        and any(row.get(name) is not None for row in rows)
    ]


def _show(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
