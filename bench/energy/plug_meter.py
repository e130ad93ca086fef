"""A meter at the plug, read by a person: for devices that tell nothing of their power, as a Pi 4.

The first run with `--meter watts.csv` does nothing, works, and does nothing again, each for long
enough to read a display, and writes down when. The person fills in what the meter showed. The
second run computes. The rule behind each number is in METHODOLOGY.md.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ...common.errors import DataError
from ...common.files import write_whole
from ...common.prompts import read_text
from .measure import Phases, Workload
from .recorder import Recorder

PROTOCOL = """\
1. Put the meter between plug and power supply; unplug what is not needed; let the device rest.
2. Read the display about every 5 seconds from now on, and note the seconds shown here with it.
   The first reading comes before the idle time begins to count, the last after the end.
3. Write one line "seconds,watts" for each reading into the file that is named at the end.
4. Run the same command again: it computes from the file, and runs nothing.
A phase needs five readings: take enough --replies that the work lasts half a minute or more."""

_DRIFT = 0.1  # of the idle power, before against after
_FEWEST = 5  # readings in a phase
_MARK = "# "


@dataclass(frozen=True)
class Form:
    """When what happened, how much was done, and what the meter showed; seconds since the start."""

    spans: dict[str, tuple[float, float]]
    """`idle before`, `run`, `idle after`."""
    counts: dict[str, int]
    """`generated_tokens`, `prompt_tokens`, `replies`."""
    times: list[float]
    watts: list[float]


class _Readings:
    """What a person read, as a power source that is over."""

    name = "plug-meter"
    label = "meter at the plug, read by hand (whole device with its power supply)"
    quantity = "watts"

    def read(self) -> float:
        raise AssertionError("readings are in the file")


def fill_form(
    path: Path,
    workload: Workload,
    idle_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Rest, work, rest; write when, and leave room for the readings.

    Raises:
        ResourceError: the file cannot be written.
    """
    begun = clock()

    def now() -> float:
        return round(clock() - begun, 1)

    for line in PROTOCOL.splitlines():
        say(line)
    spans: dict[str, tuple[float, float]] = {}

    def rest(name: str) -> None:
        start = now()
        say(f"{start:.0f} s: {name}: rests for {idle_s:g} s")
        left = idle_s
        while left > 0:
            pause(min(5.0, left))
            left -= 5.0
            say(f"{now():.0f} s")
        spans[name] = (start, now())

    rest("idle before")
    start = now()
    say(f"{start:.0f} s: works")
    work = workload(Phases(clock))
    spans["run"] = (start, now())
    rest("idle after")
    lines = [f"{_MARK}{name}: {start} to {end} s" for name, (start, end) in spans.items()]
    counts = {
        "generated_tokens": work.generated_tokens,
        "prompt_tokens": work.prompt_tokens,
        "replies": work.replies,
    }
    lines += [f"{_MARK}{name}: {count}" for name, count in counts.items()]
    lines += ["seconds,watts", ""]
    write_whole(path, "\n".join(lines).encode())
    say(f"over; write the readings into {path}, then run the same command again")


def read_form(path: Path) -> Form:
    """The form with its readings.

    Raises:
        DataError: it is none, or a reading is no number.
    """
    spans: dict[str, tuple[float, float]] = {}
    counts: dict[str, int] = {}
    times: list[float] = []
    watts: list[float] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            if line.startswith(_MARK):
                name, _, value = line.removeprefix(_MARK).partition(": ")
                if value.endswith(" s"):
                    start, _, end = value.removesuffix(" s").partition(" to ")
                    spans[name] = (float(start), float(end))
                else:
                    counts[name] = int(value)
            elif line.strip() and not line.startswith("seconds"):
                at, value = next(csv.reader([line]))
                times.append(float(at))
                watts.append(float(value))
        except ValueError:
            raise DataError(f"{path}, line {number}: expected 'seconds,watts'") from None
    if spans.keys() != {"idle before", "run", "idle after"} or "generated_tokens" not in counts:
        raise DataError(f"{path}: was not written by `bench energy --meter`")
    if any(b <= a for a, b in pairwise(times)):
        raise DataError(f"{path}: the seconds must grow from line to line")
    if any(not 0 < value < 3000 for value in watts):
        raise DataError(f"{path}: watts are between 0 and 3000")
    return Form(spans, counts, times, watts)


def evaluate(form: Form) -> dict[str, object]:
    """Joules per token and reply above the idle power. Not measured is None, with a reason."""
    recorder = Recorder(_Readings(), times=form.times, values=form.watts)  # type: ignore[arg-type]
    before, run, after = (form.spans[name] for name in ("idle before", "run", "idle after"))
    idle = [recorder.watts(*before), recorder.watts(*after)]
    gross = recorder.joules(*run)
    row: dict[str, object] = {
        "source": _Readings.label, "status": "not measured", "reason": None,
        "seconds": run[1] - run[0], "samples": recorder.samples_between(*run), "idle_w": None,
        "gross_j": gross, "net_j": None, "j_per_token": None, "j_per_reply": None, "flags": [],
        **form.counts,
    }  # fmt: skip
    fewest = min(recorder.samples_between(*span) for span in form.spans.values())
    if fewest < _FEWEST:
        return row | {"reason": f"a phase has {fewest} readings; {_FEWEST} are needed in each"}
    if gross is None or idle[0] is None or idle[1] is None:
        return row | {"reason": "readings must begin before the first phase and end after the last"}
    idle_w = (idle[0] + idle[1]) / 2
    row["idle_w"] = idle_w
    if abs(idle[1] - idle[0]) > _DRIFT * idle_w:
        row["flags"] = [f"the idle power went from {idle[0]:.3g} W to {idle[1]:.3g} W"]
    net = gross - idle_w * (run[1] - run[0])
    if net <= 0:
        return row | {"reason": "the run drew no more than the device at rest"}
    tokens, replies = form.counts["generated_tokens"], form.counts.get("replies", 0)
    return row | {
        "status": "measured",
        "net_j": net,
        "j_per_token": net / tokens if tokens else None,
        "j_per_reply": net / replies if replies else None,
    }
