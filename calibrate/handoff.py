"""When to hand a reply over: accuracy over the share of replies that are, from rows with answers.

The device answers each prompt alone, and the endpoint does. Whether a reply is handed over depends
on the mean u of the device's first tokens and nothing else, so one pass gives every threshold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..common.errors import DataError

if TYPE_CHECKING:
    from ..edge.api.hybrid import Hybrid
    from ..edge.link.openai import OpenAiEndpoint

__all__ = ["Point", "Row", "choose", "curve", "measure", "read_rows"]


class Row(NamedTuple):
    """One prompt: the mean u over the window, and who was right."""

    u: float
    device_right: bool
    cloud_right: bool


@dataclass(frozen=True)
class Point:
    """What a threshold gives: replies whose mean u exceeds it are handed over."""

    threshold: float
    share: float
    accuracy: float


def read_rows(file: Path) -> list[tuple[list[dict[str, object]], str]]:
    """Conversations with their one right answer: JSON lines of `messages` and `answer`.

    Raises:
        DataError: a line is none; the message names it.
    """
    rows = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append((list(row["messages"]), str(row["answer"])))
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{file} line {number}: not JSON with messages and answer") from None
    if not rows:
        raise DataError(f"{file} is empty")
    return rows


def measure(
    device: Hybrid,
    endpoint: OpenAiEndpoint,
    rows: Sequence[tuple[list[dict[str, object]], str]],
    window: int,
    seed: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Let both answer each prompt. An answer is right when it equals the row's after stripping.

    Raises:
        CloudError: the endpoint failed: without its answer there is nothing to compare.
    """
    for number, (messages, answer) in enumerate(rows):
        reply = device.generate(messages, strategy="local", seed=seed + number).read()
        known = [t.uncertainty for t in reply.tokens[:window] if t.uncertainty is not None]
        options = device.config
        pieces = endpoint.stream(
            [{"role": str(m["role"]), "content": str(m["content"])} for m in messages],
            options.sampler, seed + number, options.chat.max_tokens,
        )  # fmt: skip
        with closing(pieces):
            said = "".join(pieces)
        yield Row(
            sum(known) / len(known) if known else 0.0,
            reply.text.strip() == answer.strip(),
            said.strip() == answer.strip(),
        )
        advance()


def curve(rows: Sequence[Row]) -> list[Point]:
    """Accuracy and share at every threshold that makes a difference, from all to none."""
    levels = sorted({row.u for row in rows})
    points = []
    for threshold in [-1.0, *levels]:
        handed = [row.u > threshold for row in rows]
        right = [
            row.cloud_right if over else row.device_right
            for row, over in zip(rows, handed, strict=True)
        ]
        points.append(Point(threshold, sum(handed) / len(rows), sum(right) / len(rows)))
    return points


def choose(points: Sequence[Point], loss: float = 0.01) -> Point:
    """The fewest replies handed over whose accuracy is at most `loss` below the best there is."""
    enough = max(point.accuracy for point in points) - loss
    return min((p for p in points if p.accuracy >= enough), key=lambda p: p.share)
