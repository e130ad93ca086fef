"""The picture of a load test: rate and latency over the number of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.errors import DataError
from ...common.plots import BLUE, GREY, ORANGE, RED, figure, plain_log_ticks


def load_over_devices(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Latency of a verification (median, p95, p99) over devices, and the calls per second beside.

    Raises:
        DataError: no row has a latency.
    """
    known = sorted(
        (row for row in rows if row.get("p50_ms") is not None), key=lambda row: row["devices"]
    )
    if not known:
        raise DataError("there is nothing to plot: no call was answered")
    x = [row["devices"] for row in known]
    with figure(path, 6.4, 3.8) as ax:
        styles = (("p50_ms", "median", BLUE, "o"), ("p95_ms", "p95", ORANGE, "^"))
        for name, label, colour, mark in (*styles, ("p99_ms", "p99", RED, "v")):
            ax.plot(x, [row[name] for row in known], color=colour, marker=mark, label=label)
        ax.set(xscale="log", yscale="log", xlabel="devices", ylabel="time of a verification (ms)")
        plain_log_ticks(ax)
        rates = ax.twinx()
        rates.plot(
            x, [row["calls_per_s"] for row in known], color=GREY, marker="s", linestyle=":",
            label="calls per second",
        )  # fmt: skip
        rates.set(ylim=(0, None), ylabel="answered calls per second")
        rates.grid(visible=False)
        lines = [*ax.get_lines(), *rates.get_lines()]
        ax.legend(lines, [line.get_label() for line in lines], frameon=False, loc="upper left")
    return path
