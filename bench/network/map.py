"""Which strategy is best where: over round trip and device speed, from measured costs. Pure.

The decisions of each strategy (calls and bytes per token, rejections) stay as they were measured;
the device's time per token and the round trip vary. Candidates are strategies whose text follows
the LLM, wholly or at a bounded risk: `local` and `rand` are shown beside them, not ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...common.errors import UsageError
from .channel import Channel, StrategyCost, seconds_per_token

COLUMNS = (
    "device_ms", "round_trip_ms", "fastest", "tokens_per_s", "cloud_tokens_per_s",
    "local_tokens_per_s", "fewest_passes", "passes_per_token", "fewest_bytes", "bytes_per_token",
)  # fmt: skip

_NOT_RANKED = ("local", "rand", "rand pipelined")


def map_rows(
    costs: Sequence[StrategyCost],
    device_ms: Sequence[float],
    round_trips_ms: Sequence[float],
    llm_ms: float | None = None,
) -> list[dict[str, Any]]:
    """One row per device speed and round trip.

    Args:
        costs: measured, with `local` and `cloud` among them.
        device_ms: of one token of the device alone; the drafting strategies' times scale with it.
        round_trips_ms: beyond transmission.
        llm_ms: of one pass of the LLM over one token; None: as measured. Calls scale with it.

    Raises:
        UsageError: `local` or `cloud` was not measured.
    """
    known = {cost.strategy: cost for cost in costs}
    if not {"local", "cloud"} <= known.keys():
        raise UsageError("a map needs the costs of local and cloud: add them to --strategies")
    cloud = known["cloud"]
    measured_ms = cloud.cloud_ms_per_call * cloud.calls_per_token
    factor = 1.0 if llm_ms is None else llm_ms / measured_ms
    rows = []
    for own_ms in device_ms:
        speed = own_ms / known["local"].device_ms_per_token
        here = {
            name: replace(
                cost,
                device_ms_per_token=cost.device_ms_per_token * speed,
                cloud_ms_per_call=cost.cloud_ms_per_call * factor,
            )
            for name, cost in known.items()
        }
        for round_trip in round_trips_ms:
            link = Channel(round_trip_s=round_trip / 1000)
            rates = {name: 1 / seconds_per_token(cost, link) for name, cost in here.items()}
            ranked = [name for name in here if name not in _NOT_RANKED]
            fastest = max(ranked, key=lambda name: rates[name])
            passes = {name: _passes(here[name]) for name in ranked}
            sizes = {name: _bytes(here[name]) for name in ranked}
            fewest, least = min(ranked, key=passes.__getitem__), min(ranked, key=sizes.__getitem__)
            rows.append(
                {
                    "device_ms": own_ms,
                    "round_trip_ms": round_trip,
                    "fastest": fastest,
                    "tokens_per_s": rates[fastest],
                    "cloud_tokens_per_s": rates["cloud"],
                    "local_tokens_per_s": rates["local"],
                    "fewest_passes": fewest,
                    "passes_per_token": passes[fewest],
                    "fewest_bytes": least,
                    "bytes_per_token": sizes[least],
                    "rates": rates,
                }
            )
    return rows


def _passes(cost: StrategyCost) -> float:
    """LLM passes per token: one per call, but `cloud` runs one for each token it supplies."""
    return 1.0 if cost.strategy == "cloud" else cost.calls_per_token


def _bytes(cost: StrategyCost) -> float:
    return cost.calls_per_token * (cost.up_bytes_per_call + cost.down_bytes_per_call)


def sentence(row: dict[str, Any]) -> str:
    """One cell of the map in words; says so where `cloud` alone is fastest."""
    where = (
        f"on a device of {row['device_ms']:.3g} ms a token over a round trip of "
        f"{row['round_trip_ms']:g} ms: "
    )
    if row["fastest"] == "cloud":
        best = "the cloud alone is faster than every strategy that drafts"
    else:
        best = f"{row['fastest']} is fastest"
    return (
        f"{where}{best} ({row['tokens_per_s']:.3g} tokens/s; cloud {row['cloud_tokens_per_s']:.3g},"
        f" the device alone {row['local_tokens_per_s']:.3g}); fewest LLM passes: "
        f"{row['fewest_passes']} ({row['passes_per_token']:.2g} a token); fewest bytes: "
        f"{row['fewest_bytes']} ({row['bytes_per_token']:.3g} a token)"
    )


def draw_map(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """The fastest strategy of each cell, its name and tokens per second written in it."""
    from ...common.plots import STYLES, figure

    devices = sorted({row["device_ms"] for row in rows})
    trips = sorted({row["round_trip_ms"] for row in rows})
    with figure(path, 1.6 + 1.1 * len(trips), 1.2 + 0.55 * len(devices)) as ax:
        ax.grid(visible=False)
        for row in rows:
            x, y = trips.index(row["round_trip_ms"]), devices.index(row["device_ms"])
            colour = STYLES.get(row["fastest"].split()[0], ("#ffffff", "", ""))[0]
            ax.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], color=colour, alpha=0.3, lw=0)
            text = f"{row['fastest'].replace(' pipelined', '+')}\n{row['tokens_per_s']:.3g}/s"
            ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8)
        ax.set_xticks([i + 0.5 for i in range(len(trips))], [f"{ms:g}" for ms in trips])
        ax.set_yticks([i + 0.5 for i in range(len(devices))], [f"{ms:.3g}" for ms in devices])
        ax.set(xlabel="round trip (ms)", ylabel="device, ms a token")
        ax.set_title("fastest of the strategies that follow the LLM (+: pipelined)", fontsize=9)
    return path
