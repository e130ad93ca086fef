"""What the doctor says: one finding per question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ...common.text import one_line

Level = Literal["ok", "warn", "fail"]
_ORDER: dict[Level, int] = {"ok": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True)
class Finding:
    """One answer.

    Args:
        check: the question, in a word or two ("processor").
        level: ok; warn: it works, but worse than it could; fail: it does not work.
        text: what was found, one line.
        advice: what to do about it, "" if nothing.
        facts: numbers and names behind it, for JSON.
    """

    check: str
    level: Level
    text: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "advice": self.advice or None}


def worst(findings: Sequence[Finding]) -> Level:
    """The worst level among them; ok if there is none."""
    return max((f.level for f in findings), key=_ORDER.__getitem__, default="ok")


def render(findings: Sequence[Finding]) -> str:
    """As lines for a person: level, check, text, and the advice below it."""
    width = max((len(f.check) for f in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:4}  {finding.check:{width}}  {one_line(finding.text)}")
        if finding.advice:
            lines.append(f"{'':4}  {'':{width}}  -> {one_line(finding.advice)}")
    counts = {level: sum(f.level == level for f in findings) for level in _ORDER}
    lines.append("")
    lines.append(", ".join(f"{n} {level}" for level, n in counts.items()))
    return "\n".join(lines)
