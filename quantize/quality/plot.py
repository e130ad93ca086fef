"""The quality report as a picture."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import UsageError
from ...common.files import atomic_output
from .report import Report


def plot_report(report: Report, path: Path) -> None:
    """Divergence from the original, and acceptance by the cloud model, against the file's size.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "pictures need matplotlib: pip install 'uhlm-edge[bench]', or leave out --report-png"
        ) from error
    panels = [("KL divergence from the original, nats (mean)", "kl_mean")]
    if report.cloud is not None:
        panels.append((f"drafts accepted by {report.cloud}", "acceptance"))
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for n, (title, key) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), n + 1)
        for row in report.rows:
            value = getattr(row, key)
            if value is None or (key == "kl_mean" and value <= 0):
                continue
            size = row.nbytes / 1e6
            axes.plot(size, value, "o", color="tab:blue")
            label = row.name.removesuffix(".gguf").split(".")[-1]
            axes.annotate(
                label,
                (size, value),
                xytext=(4, 4),
                textcoords="offset points",
                rotation=35,
                fontsize=8,
            )
        if key == "kl_mean":
            axes.set_yscale("log")
        axes.set_xlabel("file, MB")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, alpha=0.3)
    figure.suptitle(f"{report.original}: {report.texts}, {report.positions} positions", fontsize=10)
    with atomic_output(path) as part:
        figure.savefig(part, format="png", dpi=120)
