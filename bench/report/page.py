"""One self-contained HTML page from a folder of results: tables, pictures, device and build."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ...common.errors import DataError
from ...common.prompts import read_text
from .words import caption, found, prepared, show

Section = tuple[str, list[Mapping[str, Any]], str | None]
"""(name, rows, picture as base64 PNG or None)."""

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#d8dce2, #333b46); }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; }
body { padding: 0 1rem; }
h1 { margin-bottom: .3rem; } h2 { margin: 2.6rem 0 .3rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: .8rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; }
th { border-bottom: 2px solid #888; vertical-align: bottom; min-width: 4.5rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
img { max-width: 100%; height: auto; background: white; }
.same, .file, dd, dt { font-size: .85rem; } .same, .file, dt { opacity: .7; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem 1rem; } dd { margin: 0; }
@media print { .wide { overflow: visible; } table { font-size: 60%; } }
</style>
<h1>{{ title }}</h1>
<ul class="summary">
{% for part in parts %}<li><a href="#part{{ loop.index }}">{{ part.caption }}</a>\
{% if part.found %}: {{ part.found }}{% endif %}</li>
{% endfor %}</ul>
<details><summary>Device and build</summary><dl>
{% for name, value in facts.items() %}<dt>{{ name.replace("_", " ") }}</dt>
<dd>{{ value | show }}</dd>
{% endfor %}</dl></details>
{% for part in parts %}
<h2 id="part{{ loop.index }}">{{ part.caption }}</h2>
{% if part.rows %}<div class="wide" tabindex="0"><table>
<tr>{% for name in part.heads %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in part.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% if part.same %}<p class="same">The same in all rows: {{ part.same }}.</p>{% endif %}{% endif %}
{% if part.picture %}<img alt="{{ part.caption }}" \
src="data:image/png;base64,{{ part.picture }}">{% endif %}
<p class="file">File: {{ part.name }}</p>
{% endfor %}
</html>
"""


def read_sections(folder: Path) -> list[Section]:
    """Results (`*.json`, a list of rows) and pictures (`*.png`) of a folder, by name.

    Raises:
        DataError: the folder holds none, or a file is no list of rows.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
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
    parts = []
    for name, rows, picture in sections:
        heads, cells, same = prepared(rows) if rows else ([], [], "")
        parts.append(
            {
                "name": name, "caption": caption(name), "found": found(rows) if rows else "",
                "heads": heads, "rows": cells, "same": same, "picture": picture,
            }
        )  # fmt: skip
    environment = jinja2.Environment(autoescape=True)
    environment.filters["show"] = show
    return environment.from_string(_PAGE).render(title=title, facts=facts, parts=parts)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: not a list of rows, as the benchmarks write it")
    return rows
