"""Play N devices for S seconds against a verifier, and turn what they noted into a row."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.errors import CloudError, UsageError
from ...wire.messages import Info
from .client import Client
from .player import Log, Player, pour
from .trace import Step, Trace, steps_of

__all__ = ["COLUMNS", "MOST_DEVICES", "Plan", "drive", "gauge", "growth", "run_load"]

MOST_DEVICES = 5000
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
_WARM_UP = 2.0
_LONGEST_WARM_UP = 15.0


@dataclass(frozen=True)
class Plan:
    """What the devices do.

    Attributes:
        devices: how many.
        duration: measured seconds, after a warm-up in which they come one by one: 2 s, or until
            each has had an answer, but at most 15 s.
        tokens_per_s: of each device; 0: as fast as the verifier answers.
        upload_rate: share of tokens uploaded.
        drafts: tokens judged in one call.
        prefills_per_s: long prefills of one more device.
        prefill_ids: ids of such a prefill.
        deadline: seconds that a call may take, tries included.
    """

    devices: int
    duration: float
    tokens_per_s: float
    upload_rate: float = 0.1
    drafts: int = 1
    prefills_per_s: float = 0.0
    prefill_ids: int = 990
    deadline: float = 10.0

    def check(self) -> None:
        """Raise UsageError for what cannot be run."""
        if not 1 <= self.devices <= MOST_DEVICES:
            raise UsageError(f"devices lie between 1 and {MOST_DEVICES}, not {self.devices}")
        if not 1.0 <= self.duration <= 3600.0:
            raise UsageError("a duration lies between 1 and 3600 s")
        if not 0.0 <= self.tokens_per_s <= 1e4:
            raise UsageError("tokens per second of a device lie between 0 (no pause) and 10000")
        if not 0.0 < self.upload_rate <= 1.0:
            raise UsageError("an upload rate lies above 0 and at most at 1")
        if not 1 <= self.drafts <= 64:
            raise UsageError("a call has 1 to 64 drafts")
        if not 0.0 <= self.prefills_per_s <= 100.0 or not 2 <= self.prefill_ids <= 100_000:
            raise UsageError("prefills: at most 100 a second, of 2 to 100000 tokens")
        room = _open_files() - 64
        if self.devices > room:
            raise UsageError(
                f"{self.devices} devices need as many connections, and this shell allows "
                f"{max(0, room)}; raise it with `ulimit -n`"
            )


def run_load(
    plan: Plan, url: str, key: str | None, info: Info, traces: Sequence[Trace], pid: int | None
) -> dict[str, Any]:
    """Play, and return the row.

    Args:
        plan: what the devices do.
        url: of the verifier.
        key: for it.
        info: what it says about itself.
        traces: recorded replies.
        pid: of its process if it runs on this machine as a child, for its CPU time and memory.
    """
    plan.check()
    return asyncio.run(drive(plan, url, key, info, traces, pid))


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Until Python 3.12, `wait_for` may swallow a cancellation that comes as it ends: ask again."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def drive(
    plan: Plan, url: str, key: str | None, info: Info, traces: Sequence[Trace], pid: int | None
) -> dict[str, Any]:
    """As `run_load`, inside a running event loop. It ends in time whatever the verifier does."""
    log = Log()
    n_vocab = info.fingerprint[0]
    pace = 1.0 / plan.tokens_per_s if plan.tokens_per_s else 0.0
    steps = steps_of(traces, 1.0 if plan.drafts > 1 else plan.upload_rate, plan.drafts)
    if not any(step.drafts for reply in steps for step in reply):
        raise UsageError("at this upload rate the recorded replies have no upload; raise it")
    probe = Client(url, key, secrets.token_hex(16))
    sessions = [secrets.token_hex(16) for _ in range(plan.devices)]
    clients = [Client(url, key, session) for session in sessions]
    tasks = [
        asyncio.create_task(
            _late(plan, Player(c, log, n_vocab, plan.deadline, pace), traces, steps, i)
        )
        for i, c in enumerate(clients)
    ]
    if plan.prefills_per_s:
        ids = [token for trace in traces for token in (*trace.prompt, *_settled(trace))]
        ids = (ids * (1 + plan.prefill_ids // len(ids)))[: min(plan.prefill_ids, info.n_ctx - 2)]
        clients.append(Client(url, key, secrets.token_hex(16)))
        player = Player(clients[-1], log, n_vocab, plan.deadline, 0.0)
        settings = traces[0].settings.model_copy(update={"origin": 0})
        tasks.append(asyncio.create_task(pour(player, ids, settings, plan.prefills_per_s, 1)))
    try:
        await _warm_up(log, plan.devices)
        before, usage, own = await _scrape(probe), _usage(pid), time.process_time()
        began, log.open = time.monotonic(), True
        seen, memory, pause = [before], [usage], max(1.0, plan.duration / 100)
        while (left := began + plan.duration - time.monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            if left > pause:
                seen.append(await _scrape(probe))
                memory.append(_usage(pid))
            _fail_early(tasks)
        log.open = False
        seconds = time.monotonic() - began
        own = time.process_time() - own
        after, usage_after = await _scrape(probe), _usage(pid)
    finally:
        await _cancel(tasks)
        await _leave(clients, plan.deadline)
        probe.close()
    row = _row(plan, log, seconds)
    row["batch_width"] = _batch_width(before, after)
    for name in ("passes", "positions", "dropped"):
        row[name] = _growth(before, after, f"uhlm_{name}_total")
    read = row["positions"]
    row["positions_per_s"] = None if read is None else read / seconds
    for name, metric in _GAUGES.items():
        known = [gauge(text, metric) for text in (*seen, after)]
        row[name] = max((value for value in known if value is not None), default=None)
    n = len(log.samples)
    row["tool_cpu_ms_per_call"] = 1e3 * own / n if n else None
    if usage and usage_after:
        row["verifier_cpu_ms_per_call"] = 1e3 * (usage_after[0] - usage[0]) / n if n else None
        row["verifier_mb_before"], row["verifier_mb_after"] = usage[1] / 1e6, usage_after[1] / 1e6
        row["verifier_mb_per_hour"] = growth([at[1] / 1e6 for at in memory if at], pause)
    return row


def growth(values: Sequence[float], pause: float) -> float | None:
    """Slope an hour of the second half of values that were read each `pause` seconds.

    None if they are too few to tell. The first half fills caches and pools.
    """
    half = values[len(values) // 2 :]
    if len(half) < 10:
        return None
    return float(np.polyfit(np.arange(len(half)) * pause / 3600.0, half, 1)[0])


async def _late(
    plan: Plan,
    player: Player,
    traces: Sequence[Trace],
    steps: Sequence[Sequence[Step]],
    number: int,
) -> None:
    """A device that comes at a moment of its own."""
    await asyncio.sleep(random.Random(number).uniform(0, 0.75 * _WARM_UP))  # noqa: S311
    await player.play(traces, steps, number)


async def _warm_up(log: Log, devices: int) -> None:
    begun = time.monotonic()
    while (spent := time.monotonic() - begun) < _LONGEST_WARM_UP:
        if spent >= _WARM_UP and log.arrived >= devices:
            return
        await asyncio.sleep(0.1)


def _settled(trace: Trace) -> Iterator[int]:
    return (turn.settled for turn in trace.turns)


def _fail_early(tasks: Sequence[asyncio.Task[None]]) -> None:
    """A device that stopped by itself has met a bug: say so instead of measuring fewer devices."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            raise error


async def _leave(clients: Sequence[Client], deadline: float) -> None:
    """Devices end their sessions when they go."""

    async def end(client: Client) -> None:
        try:
            await client.call("DELETE", f"/v1/sessions/{client.session_id}", timeout=deadline)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError):
            return  # it forgets by itself
        finally:
            client.close()

    for at in range(0, len(clients), 16):
        await asyncio.gather(*(end(client) for client in clients[at : at + 16]))


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


async def _scrape(probe: Client) -> str:
    """`/metrics` as text; empty if the verifier has none."""
    try:
        answer = await probe.call("GET", "/metrics")
    except (asyncio.TimeoutError, OSError, EOFError, ValueError):
        return ""
    if answer.status in (401, 403):
        raise CloudError("the verifier refuses the key; set UHLM_API_KEY to a valid one")
    return answer.body.decode("utf-8", "replace") if answer.status == 200 else ""


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


def _usage(pid: int | None) -> tuple[float, float] | None:
    """CPU seconds and resident bytes of a process."""
    if pid is None:
        return None
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, float(process.memory_info().rss)
    except psutil.Error:
        return None


def _open_files() -> int:
    if os.name != "posix":
        return MOST_DEVICES
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DEVICES + 64 if soft == resource.RLIM_INFINITY else soft
