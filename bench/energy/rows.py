"""An energy report as one flat row of a table, and as a bar of a picture."""

from __future__ import annotations

from .measure import EnergyReport

COLUMNS = (
    "status", "source", "idle_w", "prompt_j_per_token", "generation_j_per_token", "j_per_token",
    "j_per_reply", "radio_j", "hours_of_chat", "n", "flags",
)  # fmt: skip
"""What the Markdown table shows. All joules are above the idle baseline."""


def flat_row(report: EnergyReport) -> dict[str, object]:
    """The numbers that a table shows, and the whole report under `report`."""
    prompt, generation = report.prompt, report.generation
    return {
        "status": report.status,
        "reason": report.reason,
        "source": report.source,
        "idle_w": report.idle_w,
        "gross_j": report.gross_j,
        "net_j": report.net_j,
        "prompt_j_per_token": prompt.j_per_token if prompt else None,
        "generation_j_per_token": generation.j_per_token if generation else None,
        "j_per_token": report.j_per_token,
        "j_per_reply": report.j_per_reply,
        "radio_j": report.radio["modelled_j"] if report.radio else None,
        "hours_of_chat": report.battery["hours_of_chat"] if report.battery else None,
        "n": report.work.replies if report.work else None,
        "flags": "; ".join(report.flags) or None,
        "report": report.row(),
    }


def bar_row(strategy: str, report: EnergyReport) -> dict[str, object]:
    """Joules per generated token, for `plots.energy_bars`."""
    tokens = report.work.generated_tokens if report.work else 0

    def share(joules: object) -> float | None:
        return float(joules) / tokens if isinstance(joules, float) and tokens else None

    return {
        "strategy": strategy,
        "prompt_j": share(report.prompt.net_j if report.prompt else None),
        "generation_j": share(report.generation.net_j if report.generation else None),
        "radio_j": share(report.radio["modelled_j"] if report.radio else None),
    }
