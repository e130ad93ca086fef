"""What a strategy's replies are worth and what they cost: definitions, as pure functions.

An `Outcome` holds the counts of one reply. `seed_row` sums those of one seed; `summary` is the mean
over seeds with the half-width of its 95 % confidence interval (Student's t).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

METRICS = (
    "accuracy", "transmission_rate", "calls", "audits", "risk", "true_skip_rate", "rejection_rate",
    "oracle_rate", "llm_passes", "llm_positions", "payload_bytes", "wire_bytes", "tokens_per_s",
)  # fmt: skip
"""The columns of the table, after `strategy`."""

_MORE = (
    "token_f1", "cosine", "payload_up", "payload_down", "wire_up", "wire_down", "device_passes",
    "device_positions", "device_ms_per_token",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One reply. None is what was not measured.

    Attributes:
        line: the row's place in the data file.
        tokens: ids of the reply.
        seconds: what the reply took, prompt included.
        device_seconds: decode, sampling, uncertainty and policy on the device.
        drafts: tokens drafted, thrown away ones included.
        calls: requests to the verifier.
        audits: of these, calls only about tokens skipped before.
        from_llm: ids judged or supplied by the LLM on request.
        skipped: ids that the LLM was not asked about.
        judged: uploaded drafts that got a verdict.
        rejected: of these, replaced ones.
        known: positions whose draft and beta are known (shadow).
        beta: sum of beta over them.
        skipped_beta: sum of beta over the skipped ones.
        llm_passes, llm_positions: by the verifier's own counters.
        device_passes, device_positions: of the device model.
        bodies: bytes of each request body.
        requests: the same with request line and headers.
        payload_down, wire_down: bytes of all replies' bodies, and with their heads.
        threshold: of u or of the reward, as it was at the end of the reply.
        exact, token_f1, cosine: against the row's answer or reference.
        text: the reply.
    """

    line: int
    tokens: int
    seconds: float
    device_seconds: float = 0.0
    drafts: int = 0
    calls: int = 0
    audits: int = 0
    from_llm: int = 0
    skipped: int = 0
    judged: int = 0
    rejected: int = 0
    known: int | None = None
    beta: float = 0.0
    skipped_beta: float = 0.0
    llm_passes: int | None = None
    llm_positions: int | None = None
    device_passes: int = 0
    device_positions: int = 0
    bodies: Sequence[int] = ()
    requests: Sequence[int] | None = ()
    payload_down: int = 0
    wire_down: int | None = 0
    threshold: float | None = None
    exact: float | None = None
    token_f1: float | None = None
    cosine: float | None = None
    text: str = field(default="", compare=False)

    @property
    def accuracy(self) -> float | None:
        """Right or not; where there is no one right reply, how similar to the reference."""
        if self.exact is not None:
            return self.exact
        return self.token_f1 if self.cosine is None else self.cosine

    @staticmethod
    def from_json(value: Any) -> Outcome:
        """Raises TypeError if it is none."""
        names = {f.name for f in fields(Outcome)}
        if not isinstance(value, dict) or not value.keys() <= names:
            raise TypeError("not an outcome")
        return Outcome(**value)


def exact(reply: str, answer: str) -> float:
    """1 if the reply equals the answer after stripping both, else 0."""
    return float(reply.strip() == answer.strip())


def token_f1(reply: str, reference: str) -> float:
    """F1 of the words both have in common, counted as often as both have them, in lower case."""
    ours, theirs = (Counter(re.findall(r"\w+", text.lower())) for text in (reply, reference))
    common = (ours & theirs).total()
    if common == 0:
        return float(ours == theirs)
    return 2 * common / (ours.total() + theirs.total())


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine of the angle between two embeddings; 0 if one of them is nothing."""
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a, b)) / size if size > 0.0 else 0.0


def seed_row(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """All metrics of one seed: totals over totals, METHODOLOGY has the words."""

    def total(name: str) -> float | None:
        values = [getattr(outcome, name) for outcome in outcomes]
        return None if any(value is None for value in values) else float(sum(values))

    def uploaded(name: str) -> float | None:
        sizes = [getattr(outcome, name) for outcome in outcomes]
        return None if None in sizes else float(sum(map(sum, sizes)))

    tokens, skipped, known = total("tokens"), total("skipped"), total("known")
    skipped_beta = total("skipped_beta") if known is not None else None
    payload = uploaded("bodies"), total("payload_down")
    wire = uploaded("requests"), total("wire_down")
    skip_risk = _ratio(skipped_beta, skipped)
    ms = _ratio(total("device_seconds"), total("drafts"))
    return {
        "accuracy": _mean([outcome.accuracy for outcome in outcomes]),
        "transmission_rate": _ratio(total("from_llm"), tokens),
        "calls": total("calls"),
        "audits": total("audits"),
        "risk": _ratio(skipped_beta, tokens),
        "true_skip_rate": None if skip_risk is None else 1.0 - skip_risk,
        "rejection_rate": _ratio(total("rejected"), total("judged")),
        "oracle_rate": _ratio(total("beta"), known),
        "llm_passes": total("llm_passes"),
        "llm_positions": total("llm_positions"),
        "payload_bytes": _ratio(_sum(*payload), tokens),
        "wire_bytes": _ratio(_sum(*wire), tokens),
        "tokens_per_s": _ratio(tokens, total("seconds")),
        "token_f1": _mean([outcome.token_f1 for outcome in outcomes]),
        "cosine": _mean([outcome.cosine for outcome in outcomes]),
        "payload_up": _ratio(payload[0], tokens),
        "payload_down": _ratio(payload[1], tokens),
        "wire_up": _ratio(wire[0], tokens),
        "wire_down": _ratio(wire[1], tokens),
        "device_passes": total("device_passes"),
        "device_positions": total("device_positions"),
        "device_ms_per_token": None if ms is None else 1e3 * ms,
    }


def summary(strategy: str, seeds: Mapping[int, Sequence[Outcome]]) -> dict[str, Any]:
    """One row of the table: each metric's mean over seeds, and `_ci`, its 95 % half-width."""
    rows = [seed_row(outcomes) for outcomes in seeds.values()]
    every = [outcome for outcomes in seeds.values() for outcome in outcomes]
    row: dict[str, Any] = {"strategy": strategy}
    for name in (*METRICS, *_MORE):
        values = [each[name] for each in rows]
        present = [value for value in values if value is not None]
        whole = len(present) == len(values) and bool(values)
        row[name] = sum(present) / len(present) if whole else None
        row[f"{name}_ci"] = half_width(present) if whole else None
    for name, column in (("upload_body", "bodies"), ("upload_wire", "requests")):
        sizes = [size for outcome in every for size in getattr(outcome, column) or ()]
        for share, label in ((50, "median"), (95, "p95")):
            row[f"{name}_{label}"] = float(np.percentile(sizes, share)) if sizes else None
    row["threshold"] = every[-1].threshold if every else None
    row["n"] = max((len(outcomes) for outcomes in seeds.values()), default=0)
    row["tokens"] = sum(outcome.tokens for outcome in every)
    row["seeds"] = len(rows)
    return row


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % confidence interval of the mean; None with fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    return t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)


def t_quantile(freedom: int) -> float:
    """t with P(|T| < t) = 0.95, for Student's t with that many degrees of freedom.

    The closed form of Abramowitz and Stegun 26.7.3 and 26.7.4, inverted by bisection.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (low, angle) if _inside(angle, freedom) > 0.95 else (angle, high)
    return math.sqrt(freedom) * math.tan(low)


def _inside(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle))."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    series = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        series += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * series)
    return math.sin(angle) * series


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None
