"""When to hand a reply over: accuracy over the share of replies that are, from rows with answers.

The device answers each prompt alone, and the large model does. Whether a reply is handed over
depends on the mean risk of the device's first tokens and nothing else, so one pass gives every
threshold. The threshold is chosen on four fifths of the conversations and tried on the fifth that
it never saw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..common.errors import DataError
from ..common.files import write_whole
from ..common.prompts import Case, Message, read_prompts
from ..configs.config import Config
from ..edge.policy.calibration import ModelKey
from ..edge.policy.handoff_calibration import HANDOFF, HandoffCalibration, Point
from .fit import require_enough
from .rows import kept_rows

Write = Callable[[Sequence[Message], int], tuple[str, Sequence[float]]]
"""The device's reply to a conversation, with a seed: its text, and the risk of each token."""

Ask = Callable[[Sequence[Message], int], str]
"""The large model's reply to a conversation, with a seed."""

LOSS = 0.01
"""Accuracy that may be lost, of the best there is, for fewer replies handed over."""

_EVERY = 5  # conversations of which one is held out


@dataclass(frozen=True)
class Row:
    """One prompt: the mean risk over the window, and who was right."""

    risk: float
    device_right: bool
    cloud_right: bool
    conversation: int = 0


def measure(
    write: Write, ask: Ask, cases: Sequence[Case], window: int, seed: int = 1, first: int = 0
) -> Iterator[Row]:
    """Let both answer each prompt from `first` on. An answer is right when it equals the row's.

    Both are stripped before they are compared.

    Raises:
        CloudError: the endpoint failed: without its answer there is nothing to compare.
    """
    for number, case in enumerate(cases[first:], first):
        assert case.answer is not None  # noqa: S101 - `with_answers` has seen to that
        own, risks = write(case.messages, seed + number)
        known = risks[:window]
        said = ask(case.messages, seed + number)
        yield Row(
            sum(known) / len(known) if known else 0.0,
            own.strip() == case.answer.strip(),
            said.strip() == case.answer.strip(),
            case.conversation,
        )


def curve(rows: Sequence[Row]) -> list[Point]:
    """Accuracy and share at every threshold that makes a difference, from all to none."""
    return [at(rows, threshold) for threshold in [-1.0, *sorted({row.risk for row in rows})]]


def at(rows: Sequence[Row], threshold: float) -> Point:
    """What a threshold gives on these rows."""
    handed = [row.risk > threshold for row in rows]
    right = [
        row.cloud_right if over else row.device_right
        for row, over in zip(rows, handed, strict=True)
    ]
    share, accuracy = sum(handed) / len(rows), sum(right) / len(rows)
    return Point(threshold=threshold, share=share, accuracy=accuracy)


def choose(points: Sequence[Point], loss: float = LOSS) -> Point:
    """The fewest replies handed over whose accuracy is at most `loss` below the best there is."""
    enough = max(point.accuracy for point in points) - loss
    return min((p for p in points if p.accuracy >= enough), key=lambda p: p.share)


def with_answers(path: Path) -> list[Case]:
    """The rows of a file that have one right answer; a reference is none.

    Raises:
        DataError: a line is wrong, or too few conversations have an answer.
    """
    cases = [case for case in read_prompts(path, scored=True) if case.answer is not None]
    if not cases:
        raise DataError(f'{path}: no row has an "answer" that a reply could be compared with')
    require_enough(len({case.conversation for case in cases}))
    return cases


def calibrate_handoff(
    config: Config,
    key: ModelKey,
    write: Write,
    ask: Ask,
    endpoint: str,
    prompts: Path,
    out: Path,
    seed: int = 1,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> HandoffCalibration:
    """Measure, or go on where a run was interrupted; choose a threshold and write the file.

    Args:
        config: the sampler, the window, the estimator and the longest reply that both write with.
        key: which model is on the device.
        write: lets it reply.
        ask: lets the large model.
        endpoint: its name.
        prompts: rows with answers.
        out: the file, NAME.handoff.json.
        seed: of the first reply; the others follow.
        advance: told how many rows of how many are done.

    Raises:
        CloudError: the endpoint failed. What was measured is kept.
        DataError: too few rows with answers, or rows of another run in the way.
    """
    cases = with_answers(prompts)
    digest = hashlib.sha256(prompts.read_bytes()).hexdigest()
    about: dict[str, Any] = {
        "device": key.model_dump(mode="json"), "endpoint": endpoint,
        "sampler": config.sampler.model_dump(), "estimator": config.strategy.estimator,
        "by": config.strategy.ask_by, "samples": config.strategy.samples,
        "window": config.strategy.window, "seed": seed, "max_tokens": config.chat.max_tokens,
        "prompts": prompts.name, "prompts_digest": digest,
    }  # fmt: skip
    header = json.dumps(about, sort_keys=True)
    with kept_rows(out, header, lambda line: Row(**json.loads(line))) as (rows, keep):
        del rows[len(cases) :]
        advance(len(rows), len(cases))
        for row in measure(write, ask, cases, config.strategy.window, seed, len(rows)):
            keep(json.dumps(asdict(row)))
            rows.append(row)
            advance(len(rows), len(cases))
    made = summarise(rows, about, out.name.removesuffix(HANDOFF))
    write_whole(out, made.model_dump_json(indent=1).encode() + b"\n")
    return made


def summarise(rows: Sequence[Row], about: dict[str, Any], name: str) -> HandoffCalibration:
    """The threshold, from the rows of four fifths of the conversations; its figures of the rest."""
    numbers = sorted({row.conversation for row in rows})
    back = set(numbers[_EVERY - 1 :: _EVERY])
    learnt = [row for row in rows if row.conversation not in back]
    held_out = [row for row in rows if row.conversation in back]
    points = curve(learnt)
    chosen = choose(points)
    return HandoffCalibration(
        **about, name=name, made=date.today().isoformat(), rows=(len(learnt), len(held_out)),
        loss=LOSS, chosen=chosen, held_out=at(held_out, chosen.threshold),
        device_alone=sum(row.device_right for row in held_out) / len(held_out),
        endpoint_alone=sum(row.cloud_right for row in held_out) / len(held_out),
        curve=tuple(points),
    )  # fmt: skip


def describe(made: HandoffCalibration) -> str:
    """What was found, as Markdown."""
    learnt, held_out = made.rows
    above = made.chosen.threshold
    what = "expected rejection" if made.by == "head" else "u"
    lines = [
        f"# {made.name}: {made.device.name}, handing over to {made.endpoint}",
        "",
        f"Threshold {above:.4f} of the mean {what} over {made.window} tokens: chosen on {learnt} "
        f"rows of {made.prompts} ({100 * made.chosen.share:.0f} % handed over, "
        f"{100 * made.chosen.accuracy:.1f} % right), tried on {held_out} rows of other "
        "conversations:",
        "",
        "| handed over | share of replies | right |",
        "|---|---|---|",
    ]
    for name, share, right in (
        ("always", 1.0, made.endpoint_alone),
        (f"{what} > {above:.4f}", made.held_out.share, made.held_out.accuracy),
        ("never", 0.0, made.device_alone),
    ):
        lines.append(f"| {name} | {100 * share:.1f} % | {100 * right:.1f} % |")
    return "\n".join(lines) + "\n"
