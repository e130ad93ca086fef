"""What a reply cost: the numbers of the last line of `--json` and of the line in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .events import Event, Token


@dataclass
class Traffic:
    """Bytes since a link was made. Wire bytes include request line, status line and headers."""

    calls: int = 0
    payload_up: int = 0
    payload_down: int = 0
    wire_up: int = 0
    wire_down: int = 0


@dataclass
class Stats:
    """Counts and times of one reply. Times in seconds; byte counts are whole bodies.

    Attributes:
        tokens: ids of the reply, end of text included.
        uploads: calls that asked about tokens or for tokens.
        from_llm: ids judged or supplied by the LLM on request.
        rejected: drafts that the LLM replaced.
        unverified: tokens on which the strategy wanted a verdict and got none.
        prefill_time: the prompt on the device.
        device_time: decode, sampling, uncertainty and policy of all drafts.
        drafts: tokens drafted, thrown away ones included.
        wait_time: what the device spent waiting for the verifier.
        cloud_time: what the verifier said it spent on the model.
        draft_limit: the newest one in force; None without blocks.
        pipelined: a draft was made while a call was under way.
    """

    strategy: str
    threshold: float | None = None
    tokens: int = 0
    uploads: int = 0
    calls: int = 0
    audits: int = 0
    from_llm: int = 0
    rejected: int = 0
    unverified: int = 0
    drafts: int = 0
    elapsed: float = 0.0
    first_token: float | None = None
    prefill_time: float = 0.0
    device_time: float = 0.0
    wait_time: float = 0.0
    cloud_time: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    wire_up: int = 0
    wire_down: int = 0
    offline_reason: str | None = None
    draft_limit: int | None = None
    pipelined: bool = False

    def add(self, event: Event) -> None:
        """Count a committed token."""
        if not isinstance(event, Token):
            return
        self.tokens += 1
        self.unverified += event.unverified
        if self.first_token is None:
            self.first_token = event.time
        if event.uploaded and (event.accepted is not None or event.source == "cloud"):
            self.from_llm += 1
        if event.accepted is False and event.source == "cloud":
            self.rejected += 1

    def add_traffic(self, before: Traffic, after: Traffic) -> None:
        """Count what went over the link in between."""
        self.calls += after.calls - before.calls
        self.uplink_bytes += after.payload_up - before.payload_up
        self.downlink_bytes += after.payload_down - before.payload_down
        self.wire_up += after.wire_up - before.wire_up
        self.wire_down += after.wire_down - before.wire_down

    @property
    def device_time_per_draft(self) -> float:
        """Seconds that the device needs for a token, without waiting."""
        return self.device_time / self.drafts if self.drafts else 0.0

    @property
    def transmission_rate(self) -> float:
        """TR: ids judged or supplied by the LLM over ids of the reply."""
        return self.from_llm / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Ids of the reply over the time it took."""
        return self.tokens / self.elapsed if self.elapsed else 0.0

    def to_json(self) -> dict[str, Any]:
        """The names of the command line's last JSON line; times in milliseconds."""
        as_they_are = (
            "strategy", "threshold", "draft_limit", "pipelined", "offline_reason", "tokens",
            "uploads", "calls", "audits", "rejected", "unverified", "uplink_bytes",
            "downlink_bytes",
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in as_they_are},
            "transmission_rate": round(self.transmission_rate, 6),
            "tokens_per_s": round(self.tokens_per_s, 2),
            "ttft_ms": None if self.first_token is None else round(self.first_token * 1e3, 3),
            "prefill_ms": round(self.prefill_time * 1e3, 3),
            "edge_ms_per_token": round(self.device_time_per_draft * 1e3, 4),
            "cloud_ms": round(self.cloud_time * 1e3, 3),
            "wait_ms": round(self.wait_time * 1e3, 3),
            "wire_up_bytes": self.wire_up,
            "wire_down_bytes": self.wire_down,
        }
