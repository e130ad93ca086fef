"""Joules per token and per reply of any workload that marks its phases.

The rule behind each number is in METHODOLOGY.md. What was not measured is None with a reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Literal

from ...edge.device.power import PowerSource, Runner, SensorError, run_command
from ...edge.device.sensors import BatteryState, discover, read_battery
from ...edge.device.thermal import HeatState, read_heat, throttling_between
from .radio import RadioModel
from .recorder import Recorder, Sampling, background_sampling

_STEADY, _ALIKE = 0.1, 0.25
"""Shares by which the idle baseline, and two sources of one device, may differ: reasoned."""

Status = Literal["measured", "partial", "not measured"]


@dataclass(frozen=True)
class WorkDone:
    """What a workload did, counted by itself."""

    prompt_tokens: int
    generated_tokens: int
    replies: int = 1
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    radio_s: float = 0.0
    """Seconds in which the radio was busy."""
    interrupted: bool = False
    """Whether it ended early; what it counted until then is valid."""


@dataclass
class Phases:
    """Where a workload marks what it is doing: `with phases("prompt"): ...`."""

    mark: Callable[[], float]
    """Takes a sample and returns its time."""
    intervals: list[tuple[str, float, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: Literal["prompt", "generation"]) -> Iterator[None]:
        start = self.mark()
        try:
            yield
        finally:
            self.intervals.append((name, start, self.mark()))


Workload = Callable[[Phases], WorkDone]


@dataclass(frozen=True)
class PhaseEnergy:
    """Energy of all intervals of one phase. None: not measured, and `reason` says why."""

    seconds: float
    tokens: int
    gross_j: float | None
    net_j: float | None
    j_per_token: float | None
    """Net joules by the tokens of this phase."""
    sd_j: float | None = None
    """Standard deviation of the gross joules over the intervals, from two on."""
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """One measurement. `row()` is what is written. None: not measured."""

    status: Status
    reason: str | None
    source: str | None
    work: WorkDone | None
    seconds: float
    idle_w: float | None = None
    idle_sd_w: float | None = None
    idle_s: float | None = None
    gross_j: float | None = None
    net_j: float | None = None
    prompt: PhaseEnergy | None
    generation: PhaseEnergy | None
    samples: int = 0
    hz: float | None = None
    flags: tuple[str, ...]
    heat: dict[str, object]
    battery: dict[str, object] | None
    radio: dict[str, object] | None
    missing: dict[str, str]

    @property
    def j_per_token(self) -> float | None:
        """Net joules of the whole run per generated token, the prompt's share included."""
        if self.net_j is None or self.work is None or self.work.generated_tokens == 0:
            return None
        return self.net_j / self.work.generated_tokens

    @property
    def j_per_reply(self) -> float | None:
        """Net joules of the whole run per reply."""
        if self.net_j is None or self.work is None or self.work.replies == 0:
            return None
        return self.net_j / self.work.replies

    def row(self) -> dict[str, object]:
        """For JSON: what was not measured is null."""
        row = asdict(self)
        row["flags"] = list(self.flags)
        row.update(v=1, j_per_token=self.j_per_token, j_per_reply=self.j_per_reply)
        return row


def measure_energy(
    workload: Workload,
    *,
    source: str | None = None,
    idle_s: float = 10.0,
    sampling: Sampling | None = None,
    hz: float = 20.0,
    radio: RadioModel | None = None,
    root: Path = Path("/"),
    runner: Runner = run_command,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> EnergyReport:
    """Measure `idle_s` seconds of doing nothing, then `workload`, and report both.

    The workload runs in any case; without a sensor the report says "not measured" and why.

    Raises:
        UsageError: sampling below 10 Hz.
        Whatever the workload raises.
    """
    sensors = discover(root, runner)
    heats: list[HeatState] = [read_heat(root, runner)]
    battery_before = read_battery(root)
    if sampling is None:
        sampling = background_sampling(hz, also=lambda: heats.append(read_heat(root, runner)))
    try:
        power: PowerSource | None = sensors.pick(source)
        reason = None
    except SensorError as error:
        power, reason = None, str(error)

    if power is None:
        phases = Phases(clock)
        start = clock()
        work = workload(phases)
        end = clock()
        heats.append(read_heat(root, runner))
        return EnergyReport(
            status="not measured",
            reason=reason,
            source=None,
            work=work,
            seconds=end - start,
            prompt=_unmeasured(phases, "prompt", work.prompt_tokens, reason),
            generation=_unmeasured(phases, "generation", work.generated_tokens, reason),
            flags=tuple(throttling_between(heats)),
            heat=_heat_row(heats),
            battery=_battery_row(battery_before, read_battery(root), None),
            radio=_radio_row(radio, work),
            missing=sensors.missing,
        )

    second = sensors.second(power)
    recorder = Recorder(power, clock, beside=None if second is None else Recorder(second, clock))
    with sampling(recorder):
        idle_start = recorder.take()
        pause(idle_s)
        idle_end = recorder.take()
        phases = Phases(recorder.take)
        start = recorder.take()
        work = workload(phases)
        end = recorder.take()
    heats.append(read_heat(root, runner))
    return _report(
        recorder, phases, work, (idle_start, idle_end), (start, end), heats,
        (battery_before, read_battery(root)), radio, sensors.missing,
    )  # fmt: skip


def _report(
    recorder: Recorder,
    phases: Phases,
    work: WorkDone,
    idle: tuple[float, float],
    run: tuple[float, float],
    heats: list[HeatState],
    batteries: tuple[BatteryState | None, BatteryState | None],
    radio: RadioModel | None,
    missing: dict[str, str],
) -> EnergyReport:
    idle_w = recorder.watts(*idle)
    seconds = run[1] - run[0]
    gross = recorder.joules(*run)
    failure = recorder.failure
    net, reason = _net(gross, idle_w, seconds, failure)
    prompt = _phase(recorder, phases, "prompt", work.prompt_tokens, idle_w)
    generation = _phase(recorder, phases, "generation", work.generated_tokens, idle_w)
    status: Status = "measured"
    if net is None:
        parts = (idle_w, prompt.gross_j, generation.gross_j)
        status = "partial" if any(part is not None for part in parts) else "not measured"
    if work.interrupted:
        status = "partial" if status == "measured" else status
        reason = "interrupted" if reason is None else f"interrupted; {reason}"
    samples = recorder.samples_between(*run)
    hz = (samples - 1) / seconds if samples > 1 and seconds > 0 else None
    flags = throttling_between(heats)
    flags += [
        *_sampling_flags(recorder, run, hz),
        *_drift(recorder, idle),
        *_compared(recorder, run),
    ]
    # A processor's counters do not tell the power of the whole device.
    watts = None if recorder.source.name == "rapl" else recorder.watts(*run)
    return EnergyReport(
        status=status,
        reason=reason,
        source=recorder.source.label,
        work=work,
        seconds=seconds,
        idle_w=idle_w,
        idle_sd_w=recorder.spread(*idle),
        idle_s=idle[1] - idle[0] if idle_w is not None else None,
        gross_j=gross,
        net_j=net,
        prompt=prompt,
        generation=generation,
        samples=samples,
        hz=hz,
        flags=tuple(flags),
        heat=_heat_row(heats),
        battery=_battery_row(*batteries, watts),
        radio=_radio_row(radio, work),
        missing=missing,
    )


def _net(
    gross: float | None, idle_w: float | None, seconds: float, failure: str | None
) -> tuple[float | None, str | None]:
    """Energy above the idle baseline, or None and the reason."""
    if gross is None:
        return None, f"the sensor failed {failure}" if failure else "too few samples"
    if idle_w is None:
        return None, "the idle baseline was not measured"
    net = gross - idle_w * seconds
    if net <= 0:
        return None, "the run drew no more than the idle baseline: the sensor cannot resolve it"
    return net, None


def _phase(
    recorder: Recorder, phases: Phases, name: str, tokens: int, idle_w: float | None
) -> PhaseEnergy:
    spans = [(start, end) for phase, start, end in phases.intervals if phase == name]
    seconds = sum(end - start for start, end in spans)
    if not spans:
        return PhaseEnergy(0, tokens, None, None, None, None, "the workload marked no such phase")
    parts = [recorder.joules(*span) for span in spans]
    known = [part for part in parts if part is not None]
    gross = sum(known) if len(known) == len(parts) else None
    samples = sum(recorder.samples_between(*span) for span in spans)
    changes = sum(recorder.changes_between(*span) for span in spans)
    reason: str | None = None
    net: float | None = None
    if gross is not None and samples > 2 * len(spans) and changes == 0:
        reason = "the sensor did not update during this phase: it is too slow to split the run"
        gross = None
    else:
        net, reason = _net(gross, idle_w, seconds, recorder.failure)
    per_token = net / tokens if net is not None and tokens else None
    spread = stdev(known) if gross is not None and len(known) >= 2 else None
    return PhaseEnergy(seconds, tokens, gross, net, per_token, spread, reason)


def _unmeasured(phases: Phases, name: str, tokens: int, reason: str | None) -> PhaseEnergy:
    seconds = sum(end - start for phase, start, end in phases.intervals if phase == name)
    return PhaseEnergy(seconds, tokens, None, None, None, None, reason)


def _sampling_flags(recorder: Recorder, run: tuple[float, float], hz: float | None) -> list[str]:
    flags = []
    if hz is not None and hz < 10:
        flags.append(f"only {hz:.1f} samples a second")
    gap = recorder.largest_gap(*run)
    if gap is not None and gap > 0.5:
        flags.append(f"{gap:.1f} s without a sample")
    if recorder.times and recorder.changes_between(*run) < 3:
        flags.append("the sensor updated fewer than 3 times during the run")
    return flags


def _drift(recorder: Recorder, idle: tuple[float, float]) -> list[str]:
    """A baseline that rises or falls while nothing is done is none for the run after it."""
    third = (idle[1] - idle[0]) / 3
    first, last = recorder.watts(idle[0], idle[0] + third), recorder.watts(idle[1] - third, idle[1])
    if first is None or last is None or abs(last - first) <= _STEADY * first:
        return []
    return [f"the idle baseline drifted from {first:.3g} to {last:.3g} W"]


def _compared(recorder: Recorder, run: tuple[float, float]) -> list[str]:
    """Two sources of one device must tell much the same; a processor's counters, no more."""
    other, mine = recorder.beside, recorder.joules(*run)
    if other is None or mine is None:
        return []
    theirs = other.joules(*run)
    if theirs is None:
        return [f"{other.source.name}, to compare with, failed {other.failure or 'to be read'}"]
    low = 0.0 if other.source.name == "rapl" else 1 - _ALIKE
    high = math.inf if recorder.source.name == "rapl" else 1 + _ALIKE
    if low * mine <= theirs <= high * mine:
        return []
    return [f"{recorder.source.name} says {mine:.3g} J and {other.source.name} {theirs:.3g} J"]


def _heat_row(heats: list[HeatState]) -> dict[str, object]:
    during = heats[1:-1]
    hottest = [state.hottest for state in during if state.hottest is not None]
    slowest = [state.frequency_mhz for state in during if state.frequency_mhz is not None]
    return {
        "before": heats[0].row(),
        "during": {
            "readings": len(during),
            "hottest_c": max(hottest, default=None),
            "lowest_frequency_mhz": min(slowest, default=None),
        },
        "after": heats[-1].row(),
    }


def _battery_row(
    before: BatteryState | None, after: BatteryState | None, watts: float | None
) -> dict[str, object] | None:
    """Drain over the run, and how long a full battery would last at the power of the run.

    `watts` is None where nothing measured the whole device.
    """
    if before is None or after is None:
        return None
    drained = None
    if before.energy_wh is not None and after.energy_wh is not None:
        drained = before.energy_wh - after.energy_wh
    hours = before.full_wh / watts if watts and before.full_wh else None
    return {
        "name": before.name,
        "status": [before.status, after.status],
        "percent": [before.percent, after.percent],
        "full_wh": before.full_wh,
        "drained_wh": drained,
        "hours_of_chat": hours,
    }


def _radio_row(radio: RadioModel | None, work: WorkDone) -> dict[str, object] | None:
    if radio is None:
        return None
    joules = radio.joules(work.uplink_bytes, work.downlink_bytes, work.radio_s)
    return {"model": radio.label, "modelled_j": joules, "measured": False}
