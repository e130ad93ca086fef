"""Pictures of results: rows in, a PNG out. Readable in print and colour-blind safe.

Colours are Okabe and Ito's; a strategy keeps its colour and its mark in every picture, so that it
can be told in grey too. matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, ResourceError

Row = Mapping[str, Any]

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, BROWN = "#767676", "#8B4513"

# Colour, mark and line of each strategy.
STYLES = {
    "local": (GREY, "s", ":"),
    "cloud": (BLACK, "D", ":"),
    "hlm": (ORANGE, "^", "-"),
    "uhlm": (BLUE, "o", "-"),
    "adaptive": (SKY, "h", "-"),
    "rand": (PURPLE, "x", "--"),
    "spec": (GREEN, "v", "-"),
    "reward": (RED, "P", "-"),
    "ensemble": (YELLOW, "X", "-"),
    "handoff": (BROWN, "*", "-"),
}
_OTHERS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)


def accuracy_against_rate(rows: Sequence[Row], path: Path) -> Path:
    """Accuracy over what is asked of the LLM, the oracle as a line; beside it, over what it costs.

    Rows: `strategy`, `accuracy`, `transmission_rate` (0 to 1, of the tokens; of `handoff`, of the
    replies), and if known `accuracy_low`, `accuracy_high` (the confidence interval), `oracle_rate`
    and `llm_tokens` (what the LLM reads and writes for a reply: a second panel). Several rows of
    one strategy, at several thresholds, become a curve.
    """
    _require(rows, "strategy", "accuracy", "transmission_rate")
    rows = [{**row, "rate": 100 * row["transmission_rate"]} for row in rows]
    panels = {"rate": "tokens judged or supplied by the LLM (%)"}
    if any(row["strategy"] == "handoff" for row in rows):
        panels["rate"] = "asked of the LLM: tokens (handoff: replies) (%)"
    if all(row.get("llm_tokens") is not None for row in rows):
        panels["llm_tokens"] = "tokens the LLM reads and writes for a reply"
    with figure(path, 2.6 + 3.6 * len(panels), 4.0, columns=len(panels)) as axes:
        for ax, (name, label) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            _accuracy_curves(ax, rows, name)
            ax.set_xlabel(label)
        first, last = np.atleast_1d(axes)[0], np.atleast_1d(axes)[-1]
        oracles = [row["oracle_rate"] for row in rows if row.get("oracle_rate") is not None]
        if oracles:
            rate = 100 * float(np.mean(oracles))
            first.axvline(rate, color=BLACK, linestyle="--", linewidth=1, label="oracle rate")
        first.set(ylabel="accuracy (%)", xlim=(-4, 104))
        first.margins(y=0.12)
        legend_beside(last, *first.get_legend_handles_labels())
    return path


def _accuracy_curves(ax: Any, rows: Sequence[Row], over: str) -> None:
    """Each strategy's accuracy over a column."""
    for i, (name, group) in enumerate(_by_strategy(rows).items()):
        group = sorted(group, key=lambda row: float(row[over]))
        colour, mark, _ = _style(name)
        size = max(6.0, 13 - 1.1 * i)  # later ones smaller, so that none hides another
        x = [row[over] for row in group]
        y = [100 * row["accuracy"] for row in group]
        low = [100 * (row["accuracy"] - _or(row, "accuracy_low", "accuracy")) for row in group]
        top = [100 * (_or(row, "accuracy_high", "accuracy") - row["accuracy"]) for row in group]
        if any(low) or any(top):
            ax.errorbar(x, y, [low, top], fmt="none", ecolor=GREY, elinewidth=1, capsize=3)
        ax.plot(
            x, y, color=colour, marker=mark, markersize=size, linewidth=1.5, label=name,
            linestyle="-" if len(group) > 1 else "none", **_edge(mark, colour),
        )  # fmt: skip


def throughput_over_snr(rows: Sequence[Row], path: Path) -> Path:
    """Tokens per second over the signal-to-noise ratio; one panel per uplink format.

    Rows: as `channel.throughput_rows` makes them.
    """
    _require(rows, "strategy", "snr_db", "tokens_per_s")
    formats = list(dict.fromkeys(row.get("uplink", "ours") for row in rows))
    with figure(path, 3.4 * len(formats) + 1.8, 3.6, columns=len(formats)) as axes:
        for ax, uplink in zip(np.atleast_1d(axes), formats, strict=True):
            chosen = [row for row in rows if row.get("uplink", "ours") == uplink]
            for name, group in _by_strategy(chosen).items():
                group = sorted(group, key=lambda row: row["snr_db"])
                colour, mark, line = _style(name)
                pipelined = name.endswith("pipelined")
                ax.plot(
                    [row["snr_db"] for row in group],
                    [row["tokens_per_s"] for row in group],
                    color=colour, marker=mark, linestyle=line, label=name, linewidth=1.6,
                    markersize=6, fillstyle="none" if pipelined else "full", **_edge(mark, colour),
                )  # fmt: skip
            ax.set_title(f"uplink: {uplink}", fontsize=11)
            ax.set(xlabel="uplink SNR (dB)", ylim=(0, None))
        first, last = np.atleast_1d(axes)[0], np.atleast_1d(axes)[-1]
        first.set_ylabel("throughput (tokens/s)")
        legend_beside(last)
    return path


def latency_histogram(milliseconds: Sequence[float], path: Path) -> Path:
    """How long a token takes, with the median, p95 and p99 marked."""
    times = np.asarray(milliseconds, dtype=np.float64)
    if times.size == 0 or not np.isfinite(times).all() or (times <= 0).any():
        raise DataError("a latency histogram needs times above 0")
    with figure(path, 6.0, 3.6) as ax:
        spread = times.max() / times.min()
        if spread > 20:
            bins = np.geomspace(times.min(), times.max() * 1.001, 41)
            ax.set_xscale("log")
        else:
            bins = np.linspace(times.min(), times.max() * 1.001 + 1e-9, 41)
        ax.hist(times, bins=bins, color=SKY, edgecolor="white", linewidth=0.4)
        lines = ((50, BLACK, "-"), (95, RED, "--"), (99, RED, ":"))
        for share, colour, line in lines:
            value = float(np.percentile(times, share))
            ax.axvline(value, color=colour, linestyle=line, linewidth=1.5,
                       label=f"p{share}: {value:.3g} ms")  # fmt: skip
        ax.set(xlabel="time per token (ms)", ylabel="number of tokens")
        ax.legend(frameon=False, title=f"n = {times.size}")
        if spread > 20:
            plain_log_ticks(ax)
    return path


def energy_bars(rows: Sequence[Row], path: Path) -> Path:
    """Joules per generated token, stacked: prompt, generation, and the radio's model hatched.

    Rows: `strategy`, `prompt_j`, `generation_j`, `radio_j` per generated token (None: not
    measured, or no model given).
    """
    _require(rows, "strategy")
    parts = (
        ("prompt_j", "prompt", ORANGE, None),
        ("generation_j", "generation", BLUE, None),
        ("radio_j", "radio (model)", "white", "////"),
    )
    with figure(path, max(4.5, 1.1 * len(rows) + 2.6), 3.6) as ax:
        bottom = np.zeros(len(rows))
        for key, label, colour, hatch in parts:
            values = np.array([float(row.get(key) or 0.0) for row in rows])
            if not values.any():
                continue
            ax.bar(range(len(rows)), values, 0.62, bottom=bottom, color=colour, hatch=hatch,
                   edgecolor=BLACK, linewidth=0.7, label=label)  # fmt: skip
            bottom += values
        for i, row in enumerate(rows):
            if row.get("prompt_j") is None and row.get("generation_j") is None:
                ax.annotate("device not\nmeasured", (i, bottom[i]), (0, 4), color=GREY, fontsize=9,
                            textcoords="offset points", ha="center", va="bottom")  # fmt: skip
            else:
                ax.annotate(f"{bottom[i]:.3g}", (i, bottom[i]), (0, 3), ha="center", va="bottom",
                            textcoords="offset points", fontsize=9)  # fmt: skip
        ax.set_xticks(range(len(rows)), [str(row["strategy"]) for row in rows])
        ax.grid(axis="x", visible=False)
        top = bottom.max() * 1.15 if bottom.any() else 1
        ax.set(xlim=(-0.6, len(rows) - 0.4), ylim=(0, top), ylabel="energy above idle (J/token)")
        if ax.get_legend_handles_labels()[0]:
            legend_beside(ax)
    return path


def rejection_against_uncertainty(
    uncertainty: Sequence[float],
    rejection: Sequence[float],
    path: Path,
    line: tuple[float, float] | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> Path:
    """Mean probability that the LLM rejects, over u in bins; the fitted line and thresholds.

    `line` is (a, b) of beta = a u + b. The size of a dot is the number of tokens in its bin; its
    bar is the standard error of the mean.
    """
    u = np.asarray(uncertainty, dtype=np.float64)
    beta = np.asarray(rejection, dtype=np.float64)
    if u.size == 0 or u.shape != beta.shape:
        raise DataError("as many rejection probabilities as uncertainties are needed, at least one")
    with figure(path, 7.6, 4.0) as ax:
        bins = 20
        which = np.minimum((u * bins).astype(int), bins - 1)
        filled = [i for i in range(bins) if (which == i).any()]
        counts = np.array([(which == i).sum() for i in filled])
        x = np.array([u[which == i].mean() for i in filled])
        y = np.array([beta[which == i].mean() for i in filled])
        error = np.array([beta[which == i].std() for i in filled]) / np.sqrt(counts)
        ax.errorbar(x, y, yerr=error, fmt="none", ecolor=GREY, elinewidth=1, capsize=2, zorder=2)
        ax.scatter(x, y, s=15 + 200 * counts / counts.max(), color=BLUE, edgecolor=BLACK,
                   linewidth=0.6, zorder=3, label=f"mean of a bin (n = {u.size})")  # fmt: skip
        if line is not None:
            a, b = line
            ends = np.array([0.0, 1.0])
            ax.plot(ends, a * ends + b, color=ORANGE, linewidth=2, zorder=1,
                    label=f"$\\beta$ = {a:.3g} u {'-' if b < 0 else '+'} {abs(b):.3g}")  # fmt: skip
        styles = ("--", ":", "-.", (0, (1, 3)), (0, (5, 1)))
        for i, (name, value) in enumerate((thresholds or {}).items()):
            if math.isfinite(value) and 0 <= value <= 1:
                ax.axvline(value, color=RED, linestyle=styles[i % len(styles)], linewidth=1.3,
                           label=f"{name} threshold {value:.3g}")  # fmt: skip
        top = max(0.2, min(1.02, float((y + error).max()) * 1.15))
        ax.set(xlabel="uncertainty u of the device's model", xlim=(-0.02, 1.02))
        ax.set(ylabel="mean rejection probability $\\beta$", ylim=(-0.02, top))
        legend_beside(ax)
    return path


@contextmanager
def figure(
    path: Path, width: float, height: float, columns: int = 1, sharey: bool = True
) -> Iterator[Any]:
    """Axes to draw on; saved to `path` when the block ends well."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ResourceError(
            "matplotlib is not installed: pip install 'uhlm-edge[bench]'"
        ) from error
    style: dict[Any, Any] = {
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.7,
        "hatch.linewidth": 0.8,
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(1, columns, sharey=sharey)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, format="png", metadata={"Software": None})


def legend_beside(ax: Any, *entries: Any) -> None:
    """A legend to the right of the axes, where it hides nothing; `entries`: of other axes."""
    ax.legend(*entries, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def plain_log_ticks(ax: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _edge(mark: str, colour: str) -> dict[str, Any]:
    """Outlines of marks: a cross has none and takes its colour instead."""
    if mark == "x":
        return {"markeredgecolor": colour, "markeredgewidth": 2.5}
    return {"markeredgecolor": BLACK, "markeredgewidth": 0.6}


def _style(name: str) -> tuple[str, str, str]:
    for known in sorted(STYLES, key=len, reverse=True):  # "uhlm risk" is drawn like "uhlm"
        if name.startswith(known):
            return STYLES[known]
    return _OTHERS[sum(name.encode()) % len(_OTHERS)], "o", "-."


def _by_strategy(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["strategy"]), []).append(row)
    return groups


def _require(rows: Sequence[Row], *names: str) -> None:
    if not rows:
        raise DataError("there is nothing to plot: no rows")
    for i, row in enumerate(rows, 1):
        for name in names:
            if row.get(name) is None:
                raise DataError(f"row {i} has no {name}")


def _or(row: Row, name: str, other: str) -> float:
    value = row.get(name)
    return float(row[other] if value is None else value)
