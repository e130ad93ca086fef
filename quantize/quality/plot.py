"""The quality report as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...common.files import atomic_output
from ...common.plots import BLUE, figure
from .report import Report


def plot_report(report: Report, path: Path) -> None:
    """Divergence from the original, and acceptance by the cloud model, against the file's size.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    panels = {"kl_mean": "KL divergence from the original, nats (mean)"}
    if report.cloud is not None:
        panels["acceptance"] = f"drafts accepted by {report.cloud}"
    with (
        atomic_output(path) as part,
        figure(part, 6 * len(panels), 4.5, len(panels), sharey=False) as every,
    ):
        for axes, (key, title) in zip(np.atleast_1d(every), panels.items(), strict=True):
            for row in report.rows:
                value = getattr(row, key)
                if value is None or (key == "kl_mean" and value <= 0):
                    continue
                at = (row.nbytes / 1e6, value)
                axes.plot(*at, "o", color=BLUE)
                label = row.name.removesuffix(".gguf").split(".")[-1]
                axes.annotate(
                    label, at, (4, 4), textcoords="offset points", rotation=35, fontsize=8
                )
            if key == "kl_mean":
                axes.set_yscale("log")
            axes.set_xlabel("file, MB")
            axes.set_title(title, fontsize=10)
        about = f"{report.original}: {report.texts}, {report.positions} positions"
        axes.figure.suptitle(about, fontsize=10)
