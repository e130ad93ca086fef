"""Time to first token, and the time of every token split by what the device did in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...common.errors import DataError
from ...edge.chat.assistant import Assistant
from ...edge.events import Token
from ..harness.stopwatch import instrument

SPLIT = ("decode", "sampling", "uncertainty", "policy", "wait", "rest", "link")
"""All but `link` add up to `total`; the link works while the device waits, or drafts on."""

COLUMNS = ("part", "n", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "share")


@dataclass(frozen=True)
class TokenTime:
    """Seconds between the token before (or the prompt) and this one."""

    reply: int
    index: int
    total: float
    parts: dict[str, float]


def time_tokens(assistant: Assistant, prompts: Sequence[str], warm_up: int = 1) -> list[TokenTime]:
    """Write a reply to each prompt and time every token. The first `warm_up` replies are not kept.

    Tokens that one verdict settles together share an instant: the first of them carries the time.
    """
    if not prompts:
        raise DataError("no prompts to time")
    watch, clock = instrument(assistant), time.perf_counter
    times: list[TokenTime] = []
    for number, text in enumerate([prompts[0]] * warm_up + list(prompts)):
        assistant.reset()
        last, before, waited = clock(), dict(watch.seconds), 0.0
        for event in assistant.reply(text):
            if not isinstance(event, Token) or assistant.loop is None:
                continue
            now, after = clock(), dict(watch.seconds)
            parts = {name: after[name] - before[name] for name in after}
            parts["wait"] = assistant.loop.stats.wait_time - waited
            own = sum(parts[name] for name in SPLIT if name not in ("rest", "link"))
            parts["rest"] = max(0.0, now - last - own)
            if number >= warm_up:
                times.append(TokenTime(number - warm_up, event.index, now - last, parts))
            last, before, waited = now, after, assistant.loop.stats.wait_time
    return times


def split_rows(times: Sequence[TokenTime]) -> list[dict[str, object]]:
    """Rows per part: mean and percentiles in milliseconds, and the share of the whole.

    The row `ttft` is over replies (prompt and first token); all others are over the tokens after
    the first.
    """
    first = [1e3 * token.total for token in times if token.index == 0]
    later = [token for token in times if token.index > 0]
    if not first:
        raise DataError("no reply had a token")
    rows = [_row("ttft", first, None)]
    if later:
        total = [1e3 * token.total for token in later]
        rows.append(_row("total", total, 1.0))
        for part in SPLIT:
            values = [1e3 * token.parts[part] for token in later]
            rows.append(_row(part, values, sum(values) / sum(total)))
    return rows


def _row(part: str, milliseconds: list[float], share: float | None) -> dict[str, object]:
    p50, p95, p99 = (float(p) for p in np.percentile(milliseconds, (50, 95, 99)))
    return {
        "part": part, "n": len(milliseconds), "mean_ms": float(np.mean(milliseconds)),
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "share": share,
    }  # fmt: skip
