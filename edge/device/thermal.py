"""Heat, clock frequency and throttling of the device, as far as it tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .power import Runner, SensorError, number_or_none, read_text, run_command, text_or

# Bits of `vcgencmd get_throttled`: 0-3 now, 16-19 since boot (Raspberry Pi documentation).
_THROTTLE_BITS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}


@dataclass(frozen=True)
class HeatState:
    """What the device says of its heat at one moment. Empty or None: it does not say."""

    temperatures: dict[str, float]
    """Degrees Celsius by name of the thermal zone."""
    trip: tuple[str, ...]
    """Zones at or above the temperature from which the kernel slows the device down."""
    frequency_mhz: float | None
    """Mean over the cores of the frequency now."""
    frequency_max_mhz: float | None
    throttled_now: tuple[str, ...] | None
    """What the firmware says limits it now; None: it does not say."""
    throttled_since_boot: tuple[str, ...] | None
    events: int | None
    """Sum of the throttle counters (x86 cores and packages, Jetson over-current)."""

    @property
    def hottest(self) -> float | None:
        """The highest temperature, degrees Celsius."""
        return max(self.temperatures.values(), default=None)

    def row(self) -> dict[str, object]:
        """For JSON: what is not known is null."""
        return {
            "hottest_c": self.hottest,
            "temperatures_c": self.temperatures or None,
            "frequency_mhz": self.frequency_mhz,
            "frequency_max_mhz": self.frequency_max_mhz,
            "throttled_now": None if self.throttled_now is None else list(self.throttled_now),
            "throttled_since_boot": (
                None if self.throttled_since_boot is None else list(self.throttled_since_boot)
            ),
            "at_trip_point": list(self.trip),
            "throttle_events": self.events,
        }


def decode_throttled(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`throttled=0x50005` -> (limits now, limits since boot). Raises SensorError."""
    match = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+|\d+)", text.strip())
    if match is None:
        raise SensorError(f"get_throttled said {text[:40]!r}")
    bits = int(match[1], 0)
    now = tuple(name for bit, name in _THROTTLE_BITS.items() if bits >> bit & 1)
    since = tuple(name for bit, name in _THROTTLE_BITS.items() if bits >> (bit + 16) & 1)
    return now, since


def read_heat(root: Path = Path("/"), runner: Runner = run_command) -> HeatState:
    """Read everything there is. Never raises: what cannot be read is left out."""
    temperatures, trip = _zones(root)
    now, since = _firmware(root, runner)
    frequency, top = _frequencies(root)
    return HeatState(temperatures, trip, frequency, top, now, since, _events(root))


def throttling_between(states: list[HeatState]) -> list[str]:
    """Why a run between these states cannot be trusted to be at full speed; empty if it can."""
    reasons: list[str] = []
    for state in states:
        for what in state.throttled_now or ():
            reasons.append(f"the firmware reported: {what}")
        for zone in state.trip:
            reasons.append(f"thermal zone {zone} was at its throttling temperature")
    counts = [state.events for state in states if state.events is not None]
    if len(counts) >= 2 and counts[-1] > counts[0]:
        reasons.append(f"{counts[-1] - counts[0]} throttle events were counted")
    return list(dict.fromkeys(reasons))


def _zones(root: Path) -> tuple[dict[str, float], tuple[str, ...]]:
    temperatures: dict[str, float] = {}
    trip: list[str] = []
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        milli = number_or_none(zone / "temp")
        # A zone that is off reports nonsense such as -256 degrees.
        if milli is None or not -50 < (celsius := milli / 1000) < 200:
            continue
        name = text_or(zone / "type", zone.name)
        name = f"{name} ({zone.name})" if name in temperatures else name
        temperatures[name] = celsius
        limits = []
        for kind in zone.glob("trip_point_*_type"):
            if text_or(kind, "") == "passive":
                limit = number_or_none(zone / kind.name.replace("_type", "_temp"))
                limits.append((limit or 0.0) / 1000)
        if any(0 < limit <= celsius for limit in limits):
            trip.append(name)
    return temperatures, tuple(trip)


def _frequencies(root: Path) -> tuple[float | None, float | None]:
    now: list[float] = []
    top: list[float] = []
    for folder in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq")):
        current = number_or_none(folder / "scaling_cur_freq")
        highest = number_or_none(folder / "cpuinfo_max_freq")
        if current is not None and highest is not None:
            now.append(current / 1000)
            top.append(highest / 1000)
    if not now:
        return None, None
    return sum(now) / len(now), sum(top) / len(top)


def _firmware(root: Path, runner: Runner) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    try:
        if "Raspberry Pi" not in read_text(root / "proc/device-tree/model"):
            return None, None
        return decode_throttled(runner(["vcgencmd", "get_throttled"]))
    except SensorError:
        return None, None


def _events(root: Path) -> int | None:
    patterns = (
        "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
        "sys/class/hwmon/hwmon*/oc*_event_cnt",
    )
    found = [number_or_none(path) for pattern in patterns for path in root.glob(pattern)]
    counts = [int(count) for count in found if count is not None]
    return sum(counts) if counts else None
