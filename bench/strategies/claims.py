"""The published claims, and what the same quotients are here.

arXiv 2412.12687: 45.93 % fewer uploads and LLM computations than HLM at up to 97.54 % of the LLM's
accuracy, at 2.54 times HLM's token throughput; TinyLlama-1.1B and Llama-2-7B over a wireless
channel. Here: another pair, other text, loopback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("strategy", "fewer_uploads", "fewer_llm_passes", "accuracy_of_llm", "hlm_throughputs")

PUBLISHED = {
    "strategy": "published (uhlm)",
    "fewer_uploads": 0.4593,
    "fewer_llm_passes": 0.4593,
    "accuracy_of_llm": 0.9754,
    "hlm_throughputs": 2.54,
}


def claim_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The published row, then each strategy that drafts and uploads less than `hlm`.

    Empty without a row of `hlm` and one of `cloud`.

    Args:
        rows: as `scoring.summary` makes them.
    """
    known = {row["strategy"]: row for row in rows}
    if not {"hlm", "cloud"} <= known.keys():
        return []
    hlm, cloud = known["hlm"], known["cloud"]
    found = []
    for row in rows:
        rate = row["transmission_rate"]
        if row["strategy"] in ("hlm", "cloud", "local") or rate is None or rate >= 1.0:
            continue
        found.append(
            {
                "strategy": row["strategy"],
                "fewer_uploads": _less(rate, hlm["transmission_rate"]),
                "fewer_llm_passes": _less(row["llm_passes"], hlm["llm_passes"]),
                "accuracy_of_llm": _ratio(row["accuracy"], cloud["accuracy"]),
                "hlm_throughputs": _ratio(row["tokens_per_s"], hlm["tokens_per_s"]),
            }
        )
    return [dict(PUBLISHED), *found] if found else []


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _less(a: float | None, b: float | None) -> float | None:
    ratio = _ratio(a, b)
    return None if ratio is None else 1.0 - ratio
