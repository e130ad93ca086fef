"""What the devices noted and `/metrics` told, as a row of the table. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .plan import Plan
from .player import Log

COLUMNS = (
    "devices", "calls_per_s", "tokens_per_s", "drafts_per_s", "positions_per_s", "p50_ms",
    "p95_ms", "p99_ms", "queue_p95_ms", "model_p50_ms", "around_p50_ms", "first_p95_ms", "errors",
    "busy_429", "batch_width", "cells",
)  # fmt: skip
_GAUGES = {
    "cells": "uhlm_cells_used",
    "sessions": "uhlm_sessions",
    "seated": "uhlm_seated_sessions",
    "open_calls": "uhlm_open_calls",
    "parked_bytes": "uhlm_parked_bytes",
}
"""The largest value seen of each stands in the row."""
_NOT_ERRORS = {"429", "409"}


@dataclass(frozen=True)
class Played:
    """What one process of the tool has seen.

    Attributes:
        log: of its devices.
        seconds: measured.
        cpu: seconds of processor time that it took itself.
        metrics: `/metrics` at the beginning, now and then, and at the end; empty if it looked not.
        usage: processor seconds and resident bytes of the verifier, likewise.
        pause: seconds between two looks.
    """

    log: Log
    seconds: float
    cpu: float
    metrics: Sequence[str] = ()
    usage: Sequence[tuple[float, float] | None] = ()
    pause: float = 0.0


def load_row(plan: Plan, every: Sequence[Played]) -> dict[str, Any]:
    """The row of one run; the first of the processes is the one that looked at the verifier."""
    looked = every[0]
    log = Log()
    for one in every:
        log.samples += one.log.samples
        log.errors += one.log.errors
        log.tokens += one.log.tokens
        log.unverified += one.log.unverified
    row = _row(plan, log, looked.seconds)
    before, after = looked.metrics[0], looked.metrics[-1]
    row["batch_width"] = _batch_width(before, after)
    for name in ("passes", "positions", "dropped"):
        row[name] = _growth(before, after, f"uhlm_{name}_total")
    read = row["positions"]
    row["positions_per_s"] = None if read is None else read / looked.seconds
    for name, metric in _GAUGES.items():
        known = [gauge(text, metric) for text in looked.metrics]
        row[name] = max((value for value in known if value is not None), default=None)
    n = len(log.samples)
    row["tool_processes"] = len(every)
    row["tool_cpu_ms_per_call"] = 1e3 * sum(one.cpu for one in every) / n if n else None
    begin, end = looked.usage[0], looked.usage[-1]
    if begin and end:
        row["verifier_cpu_ms_per_call"] = 1e3 * (end[0] - begin[0]) / n if n else None
        row["verifier_mb_before"], row["verifier_mb_after"] = begin[1] / 1e6, end[1] / 1e6
        memory = [at[1] / 1e6 for at in looked.usage if at]
        row["verifier_mb_per_hour"] = growth(memory, looked.pause)
    return row


def growth(values: Sequence[float], pause: float) -> float | None:
    """Slope an hour of the second half of values that were read each `pause` seconds.

    None if they are too few to tell. The first half fills caches and pools.
    """
    half = values[len(values) // 2 :]
    if len(half) < 10:
        return None
    return float(np.polyfit(np.arange(len(half)) * pause / 3600.0, half, 1)[0])


def _row(plan: Plan, log: Log, seconds: float) -> dict[str, Any]:
    verify = [s for s in log.samples if s.kind == "verify"]
    first = [s for s in log.samples if s.kind == "first"]
    prefill = [s for s in log.samples if s.kind == "prefill"]
    calls = verify + first
    judged = sum(s.drafts for s in calls)
    row: dict[str, Any] = {
        "devices": plan.devices,
        "calls_per_s": len(calls) / seconds,
        "tokens_per_s": log.tokens / seconds,
        "drafts_per_s": judged / seconds,
        "accepted": sum(s.accepted for s in calls) / judged if judged else None,
        **_percentiles("", [s.seconds for s in verify]),
        **_percentiles("queue_", [s.queue for s in verify]),
        **_percentiles("model_", [s.model for s in verify]),
        **_percentiles("around_", [s.seconds - s.queue - s.model for s in verify]),
        **_percentiles("first_", [s.seconds for s in first]),
        **_percentiles("prefill_", [s.seconds for s in prefill]),
        "calls": len(calls),
        "prefills": len(prefill),
        "errors": sum(n for kind, n in log.errors.items() if kind not in _NOT_ERRORS),
        "busy_429": log.errors["429"],
        "conflicts_409": log.errors["409"],
        "errors_by_kind": dict(log.errors),
        "unverified": log.unverified,
        "duration_s": seconds,
    }
    for name in ("tokens_per_s", "upload_rate", "drafts", "prefills_per_s", "prefill_ids"):
        row[f"plan_{name}"] = getattr(plan, name)
    return row


def _percentiles(prefix: str, seconds: Sequence[float]) -> dict[str, float | None]:
    if not seconds:
        return {f"{prefix}p{share}_ms": None for share in (50, 95, 99)}
    found = np.percentile(seconds, (50, 95, 99)) * 1e3
    return {f"{prefix}p{share}_ms": float(v) for share, v in zip((50, 95, 99), found, strict=True)}


def gauge(text: str, name: str) -> float | None:
    """The sum of a metric over its labels, in Prometheus' text format; None if it is not there."""
    pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? ([0-9.e+-]+)$"
    found = re.findall(pattern, text, re.MULTILINE)
    return sum(map(float, found)) if found else None


def _batch_width(before: str, after: str) -> float | None:
    """Calls per pass of the model between two readings."""
    calls = _growth(before, after, "uhlm_batch_width_sum")
    passes = _growth(before, after, "uhlm_batch_width_count")
    return calls / passes if calls is not None and passes else None


def _growth(before: str, after: str, name: str) -> float | None:
    end = gauge(after, name)
    return None if end is None else end - (gauge(before, name) or 0.0)
