"""Results in words: captions for files, heads and units for columns, one line of what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_CAPTIONS = {
    "strategies": "Strategies: what they get right, ask for and cost",
    "handoff": "Whole replies handed over, beside single tokens",
    "ensemble": "Ensembles, and what the standard one costs",
    "latency": "Speed of the device's model, bare and in the loop",
    "overhead": "What the loop adds to a token",
    "split": "Where the time of a token goes",
    "energy": "Energy of a token and of a reply",
    "uncertainty": "Time of the uncertainty estimate",
    "uplinks": "Bytes of an upload in several formats",
    "map": "Which strategy pays, by device and link",
    "costs": "What a token of each strategy costs",
    "calibration": "How uncertainty foretells rejection",
    "load": "How many devices a verifier serves",
    "channel": "Throughput over a radio channel",
    "shapes": "Speed of models of other sizes",
}
"""By how the file's name begins."""

_HEADS = {
    "transmission_rate": "asked of the LLM",
    "true_skip_rate": "rightly skipped",
    "rejection_rate": "rejected",
    "oracle_rate": "an oracle would ask",
    "llm_passes": "LLM passes",
    "llm_positions": "tokens the LLM read or wrote",
    "payload_bytes": "bytes a token",
    "wire_bytes": "bytes a token, with HTTP",
    "tokens_per_s": "tokens/s",
    "cloud_tokens_per_s": "cloud: tokens/s",
    "local_tokens_per_s": "local: tokens/s",
    "device_ms_per_token": "device, ms a token",
    "upload_body_median": "bytes an upload, median",
    "upload_body_p95": "bytes an upload, p95",
    "avg_ts": "tokens/s, mean",
    "median_ts": "tokens/s, median",
    "stddev_ts": "tokens/s, spread",
    "n": "rows",
}
_FIRST = (
    "strategy", "accuracy", "transmission_rate", "tokens_per_s", "risk", "payload_bytes",
    "llm_passes",
)  # fmt: skip
"""Columns that people look for, where they are seen without scrolling."""

_SHARES = {
    "accuracy", "transmission_rate", "true_skip_rate", "rejection_rate", "oracle_rate", "share",
}  # fmt: skip
_UNITS = {"ms": "ms", "us": "µs", "ns": "ns", "s": "s", "j": "J", "w": "W", "bytes": "bytes"}
_HIDDEN = {
    "partial_run", "flags", "system_info", "build_commit", "cpu_info", "test_time", "token_f1",
    "payload_up", "payload_down", "wire_up", "wire_down", "upload_wire_median", "upload_wire_p95",
    "device_passes", "device_positions", "memory_bytes", "machine", "system", "python",
    "ggml_version", "llama_cpp_python", "uhlm_edge", "device", "n_cores", "shadow",
}  # fmt: skip
"""What the facts at the top say already, or only a program reads."""


def caption(name: str) -> str:
    """What a file is about: `strategies-tasks-1` becomes "Strategies: ... (tasks, 1)"."""
    first, *rest = name.replace("_", "-").split("-")
    known = _CAPTIONS.get(first)
    if known is None:
        return name.replace("-", " ").replace("_", " ").capitalize()
    return f"{known} ({', '.join(rest)})" if rest else known


def head(column: str) -> str:
    """The head of a column, with its unit."""
    if column in _HEADS:
        text = _HEADS[column]
    elif column.endswith("_per_token"):
        text = f"{head(column.removesuffix('_per_token'))} a token"
    else:
        *words, last = column.split("_")
        unit = _UNITS.get(last) if words else None
        text = f"{' '.join(words)} ({unit})" if unit else column.replace("_", " ")
    return f"{text} (%)" if column in _SHARES else text


def prepared(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], str]:
    """A table as people read it.

    An interval stands in the cell of what it belongs to, and a column that is the same in all rows
    is said once below the table.

    Returns:
        heads, cells as text, and what is the same in all rows ("" if nothing is).
    """
    rows = _flat(rows)
    names = [name for name in _plain(rows) if name not in _HIDDEN and not name.endswith("_ci")]
    names.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    same = [
        name
        for name in names
        if len(rows) > 1 and name != names[0] and len({repr(row.get(name)) for row in rows}) == 1
    ]
    columns = [name for name in names if name not in same]
    cells = [[_cell(row, name) for name in columns] for row in rows]
    said = ", ".join(f"{head(name)} {show(rows[0].get(name), name)}" for name in same)
    return [head(name) for name in columns], cells, said


def _cell(row: Row, name: str) -> str:
    spread = row.get(f"{name}_ci")
    text = show(row.get(name), name)
    return text if spread is None or text == "-" else f"{text} ± {show(spread, name)}"


def _flat(rows: Sequence[Row]) -> list[Row]:
    """What is nested, beside what is not."""
    return [{k: v for name, value in row.items() for k, v in _parts(name, value)} for row in rows]


def _parts(name: str, value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else [(name, value)]


def _plain(rows: Sequence[Row]) -> list[str]:
    """Fields of any row, in order, without nested ones and those that are always empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    plain = (type(None), bool, int, float, str)
    return [
        name
        for name in names
        if all(isinstance(row.get(name), plain) for row in rows)
        and any(row.get(name) is not None for row in rows)
    ]


def show(value: object, column: str = "") -> str:
    """A value with the digits that mean something; shares in percent."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and math.isfinite(value):
        if column in _SHARES:
            return f"{100 * value:.1f}"
        if isinstance(value, int) or abs(value) >= 100 or value == round(value):
            return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.0f}"
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"
    return str(value)


def found(rows: Sequence[Row]) -> str:
    """The first thing to know of a table, in a sentence."""
    rows = _flat(rows)
    scored = [row for row in rows if _all(row, "strategy", "accuracy")]
    if scored:
        best = max(scored, key=lambda row: float(row["accuracy"]))
        said = [f"best accuracy: {best['strategy']}, {show(best['accuracy'], 'accuracy')} %"]
        near = [row for row in scored if row["accuracy"] >= best["accuracy"] - 0.01]
        asking = [row for row in near if _all(row, "transmission_rate")]
        if asking:
            least = min(asking, key=lambda row: float(row["transmission_rate"]))
            rate = show(least["transmission_rate"], "transmission_rate")
            said.append(
                f"within one point of it, {least['strategy']} asks least: {rate} % of the tokens"
            )
        timed = [row for row in near if _all(row, "tokens_per_s")]
        if timed:
            quick = max(timed, key=lambda row: float(row["tokens_per_s"]))
            speed = show(quick["tokens_per_s"])
            said.append(f"and {quick['strategy']} is quickest: {speed} tokens/s")
        return "; ".join(said)
    for column, better in (("tokens_per_s", max), ("median_ts", max), ("j_per_token", min)):
        timed = [row for row in rows if _all(row, column)]
        if timed:
            row = better(timed, key=lambda row: float(row[column]))
            who = f" ({row['strategy']})" if "strategy" in row else ""
            return f"{head(column)}: best {show(row[column], column)}{who}, {len(rows)} rows"
    return f"{len(rows)} rows"


def _all(row: Row, *names: str) -> bool:
    return all(row.get(name) is not None for name in names)
