"""What the server has done, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .reply import Reply, provenance


class Metrics:
    """Counters since the start."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def ended(self, outcome: str) -> None:
        """A request ended: `stop`, `length`, `left`, `refused`, `busy` or `failed`."""
        self._requests[outcome] += 1

    def add(self, reply: Reply) -> None:
        """Count what a reply cost, whole or not."""
        self._tokens.update(map(provenance, reply.tokens))
        self._sums.update(
            prompt_tokens=reply.prompt_tokens,
            cached_tokens=reply.cached_tokens,
            uploads=reply.stats.uploads,
            uplink_bytes=reply.stats.uplink_bytes,
            downlink_bytes=reply.stats.downlink_bytes,
            offline_replies=reply.stats.offline_reason is not None,
        )

    def text(self, budget: Mapping[str, Any] | None = None, **gauges: int) -> str:
        """The page of `/metrics`.

        Args:
            budget: what is spent of it and its caps, as `Budget.to_json` has them.
            gauges: further values of now.
        """
        lines = []
        for name, label, counts in (
            ("requests", "outcome", self._requests),
            ("tokens", "provenance", self._tokens),
        ):
            lines.append(f"# TYPE uhlm_serve_{name}_total counter")
            lines += [
                f'uhlm_serve_{name}_total{{{label}="{key}"}} {n}' for key, n in counts.items()
            ]
        for name, value in self._sums.items():
            lines += [f"# TYPE uhlm_serve_{name}_total counter", f"uhlm_serve_{name}_total {value}"]
        for kind in ("spent", "cap"):
            values = [
                f'uhlm_serve_budget_{kind}{{span="{span}",of="{name}"}} {count[kind]}'
                for span, counts in (budget or {}).items()
                for name, count in counts.items()
                if count[kind] is not None
            ]
            lines += [f"# TYPE uhlm_serve_budget_{kind} gauge", *values] if values else []
        for name, value in gauges.items():
            lines += [f"# TYPE uhlm_serve_{name} gauge", f"uhlm_serve_{name} {value}"]
        return "\n".join(lines) + "\n"
