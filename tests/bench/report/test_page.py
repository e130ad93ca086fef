"""The page of results stands alone, shows every row, and trusts none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from uhlm_edge.bench.report.page import read_sections, render_page
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
    assert "0.84" in page
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
