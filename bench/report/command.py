"""`uhlm-edge bench report`: one page of everything that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...common.streams import complain


def report(
    folder: Annotated[Path, typer.Argument(help="Results of the benchmarks: *.json and *.png.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page.")] = "uhlm-edge: measured",
) -> None:
    """Write one self-contained HTML page with tables, pictures, device and build."""
    from ...common.files import atomic_output
    from ..harness.machine import build_info, machine_info
    from .page import read_sections, render_page

    page = render_page(title, {**machine_info(), **build_info()}, read_sections(folder))
    with atomic_output(out) as part:
        part.write_text(page, encoding="utf-8")
    complain(str(out))
