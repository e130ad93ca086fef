"""The page of results stands alone, shows every row, and trusts none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uhlm_edge.bench.report.page import read_sections, render_page
from uhlm_edge.bench.report.words import caption, head, prepared
from uhlm_edge.common.errors import DataError


def test_the_page_holds_every_row_and_picture_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    rows = [{"strategy": "local", "accuracy": 0.84}, {"strategy": "hlm", "wire_bytes": None}]
    (tmp_path / "tasks.json").write_text(json.dumps(rows))
    (tmp_path / "tasks.png").write_bytes(b"\x89PNG")
    (tmp_path / "alone.png").write_bytes(b"\x89PNG")
    sections = read_sections(tmp_path)
    assert [name for name, _, _ in sections] == ["alone", "tasks"]
    page = render_page("measured", {"cpu": "some"}, sections)
    assert page.count("data:image/png;base64,") == 2
    assert "84.0" in page
    assert "hlm" in page
    assert "wire_bytes" not in page  # nothing in it
    assert "http" not in page


def test_results_cannot_write_html(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"strategy": "<script>alert(1)</script>"}]))
    assert "<script>" not in render_page("<b>", {}, read_sections(tmp_path))


@pytest.mark.parametrize("content", ["{}", "[1]", "nonsense"])
def test_a_file_that_is_no_list_of_rows_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DataError, match=r"bad\.json"):
        read_sections(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results"):
        read_sections(tmp_path)


ROWS: list[dict[str, Any]] = [
    {"strategy": "local", "accuracy": 0.88, "accuracy_ci": 0.02, "transmission_rate": 0.0},
    {"strategy": "hlm", "accuracy": 1.0, "accuracy_ci": 0.0, "transmission_rate": 1.0},
    {"strategy": "uhlm", "accuracy": 0.995, "accuracy_ci": 0.01, "transmission_rate": 0.08},
]
ROWS = [{**row, "tokens_per_s": 100.5, "temperature": 0.6} for row in ROWS]


def test_it_begins_with_what_was_found_and_names_what_a_file_is_about() -> None:
    page = render_page("measured", {}, [("strategies-tasks", [*ROWS], None)])
    summary = page[: page.index("</ul>")]
    assert "Strategies: what they get right, ask for and cost (tasks)" in summary
    assert "best accuracy: hlm, 100.0 %" in summary
    assert "uhlm asks least: 8.0 % of the tokens" in summary


def test_a_column_has_its_unit_an_interval_its_value_and_what_never_changes_is_said_once() -> None:
    heads, cells, same = prepared(ROWS)
    assert heads == ["strategy", "accuracy (%)", "asked of the LLM (%)"]  # what is looked for first
    assert cells[0] == ["local", "88.0 ± 2.0", "0.0"]
    assert same == "tokens/s 100, temperature 0.6"
    assert head("p95_ms") == "p95 (ms)"
    assert head("generation_j_per_token") == "generation (J) a token"


def test_what_is_nested_is_a_column_too() -> None:
    heads, cells, _ = prepared([{"cost": {"strategy": "local", "calls_each": 0.123}, "tokens": 5}])
    assert heads == ["strategy", "calls each", "tokens"]
    assert cells == [["local", "0.12", "5"]]


def test_a_file_that_nobody_named_keeps_its_name_in_words() -> None:
    assert caption("my_own-run") == "My own run"
