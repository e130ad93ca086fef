"""Where a device's power can be read, one class per kind of sensor.

Every source reads files under `root`, so that a test can make up a device. A reading that cannot
be had raises `SensorError` with the reason; none is ever replaced by 0.

Units: watts for sources whose `quantity` is "watts", joules since the first reading for those
whose `quantity` is "joules".
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ...common.errors import ResourceError

Runner = Callable[[Sequence[str]], str]
"""Runs a command and returns what it printed; raises SensorError if it cannot."""

Quantity = Literal["watts", "joules"]


class SensorError(ResourceError):
    """A sensor is not there, cannot be read or says something that cannot be so."""


class PowerSource(Protocol):
    """One way to know what the device draws."""

    @property
    def name(self) -> str:
        """Short name: "battery", "jetson", "pi5-pmic", "rapl", "jtop"."""
        ...

    @property
    def label(self) -> str:
        """What is printed beside each number: sensor, rail, and what it includes."""
        ...

    @property
    def quantity(self) -> Quantity:
        """Whether `read` gives power, or energy since the first reading."""
        ...

    def read(self) -> float:
        """One reading, in watts or joules. Raises SensorError."""
        ...


def read_text(path: Path) -> str:
    """The stripped content of a sysfs file. Raises SensorError with a reason in words."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except FileNotFoundError as error:
        raise SensorError(f"{path} is not there") from error
    except PermissionError as error:
        raise SensorError(f"{path} may be read only by root") from error
    except OSError as error:
        raise SensorError(f"{path} cannot be read: {error.strerror or error}") from error


def read_number(path: Path) -> float:
    """The number in a sysfs file. Raises SensorError, also for one that is not finite."""
    text = read_text(path)
    try:
        number = float(text)
    except ValueError as error:
        raise SensorError(f"{path} holds {text[:20]!r}, not a number") from error
    if not math.isfinite(number):
        raise SensorError(f"{path} holds {text[:20]!r}, not a finite number")
    return number


def text_or(path: Path, otherwise: str) -> str:
    """The stripped content of a sysfs file; `otherwise` if it cannot be read."""
    try:
        return read_text(path)
    except SensorError:
        return otherwise


def number_or_none(path: Path) -> float | None:
    """The number in a sysfs file; None if there is none."""
    try:
        return read_number(path)
    except SensorError:
        return None


def run_command(command: Sequence[str]) -> str:
    """Run `command` for at most two seconds and return its output. Raises SensorError."""
    path = shutil.which(command[0])
    if path is None:
        raise SensorError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands, no shell
            [path, *command[1:]], capture_output=True, text=True, timeout=2.0, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SensorError(f"{command[0]} failed: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SensorError(f"{' '.join(command)} failed: {said[0] if said else done.returncode}")
    return done.stdout


@dataclass
class BatterySource:
    """What one or more batteries give while they discharge: the whole device, screen included.

    In order of preference: `power_now`, `current_now` x `voltage_now`, and as joules the fall of
    `energy_now` or of `charge_now` x voltage. The sign of the first two differs between devices
    (some report discharge as negative), so their size is taken and `status` says the direction.
    """

    batteries: tuple[Path, ...]
    name: str = "battery"
    quantity: Quantity = field(init=False, default="watts")
    _how: str = field(init=False, default="")
    _start: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for how in ("power", "current", "energy", "charge"):
            if all(self._can(how, battery) for battery in self.batteries):
                self._how, self.quantity = how, "watts" if how in ("power", "current") else "joules"
                return
        names = ", ".join(battery.name for battery in self.batteries)
        raise SensorError(f"battery {names} reports neither power, current, energy nor charge")

    @property
    def label(self) -> str:
        names = "+".join(battery.name for battery in self.batteries)
        how = {
            "power": "power_now",
            "current": "current_now x voltage_now",
            "energy": "fall of energy_now",
            "charge": "fall of charge_now x voltage",
        }[self._how]
        return f"battery {names}, {how} (whole device)"

    def read(self) -> float:
        """Watts, or joules drained since the first reading. Raises SensorError when charging."""
        self._require_discharging()
        values = [self._raw(self._how, battery) for battery in self.batteries]
        if self.quantity == "watts":
            if (watts := sum(map(abs, values))) <= 0:
                raise SensorError(f"battery reports {watts:g} W while discharging")
            return watts
        if self._start is None:
            self._start = sum(values)
        return self._start - sum(values)

    def _require_discharging(self) -> None:
        states = [_status(battery) for battery in self.batteries]
        if "Charging" in states:
            raise SensorError("the battery is charging: its power is not what the device draws")
        if "Discharging" in states:
            return
        if states and all(state == "Unknown" for state in states) and not self._on_mains():
            return
        raise SensorError(
            f"the battery is not discharging ({', '.join(states)}): unplug the device"
        )

    def _on_mains(self) -> bool:
        folder = self.batteries[0].parent
        for supply in sorted(folder.iterdir()) if folder.is_dir() else []:
            is_other = text_or(supply / "type", "Battery") != "Battery"
            if is_other and (number_or_none(supply / "online") or 0.0) > 0:
                return True
        return False

    def _can(self, how: str, battery: Path) -> bool:
        try:
            value = self._raw(how, battery)
        except SensorError:
            return False
        # A gauge that says exactly 0 W while it discharges is one that does not measure.
        return how in ("energy", "charge") or value != 0 or _status(battery) != "Discharging"

    @staticmethod
    def _raw(how: str, battery: Path) -> float:
        """Watts for "power" and "current", joules left for "energy" and "charge"."""
        if how == "power":
            return read_number(battery / "power_now") * 1e-6
        if how == "energy":
            return read_number(battery / "energy_now") * 1e-6 * 3600
        volts = read_number(battery / "voltage_now") * 1e-6
        if how == "current":
            return read_number(battery / "current_now") * 1e-6 * volts
        return read_number(battery / "charge_now") * 1e-6 * volts * 3600


def _status(battery: Path) -> str:
    try:
        return read_text(battery / "status") or "Unknown"
    except SensorError as error:
        if battery.is_dir():
            return "Unknown"
        raise SensorError(f"battery {battery.name} has gone") from error


@dataclass
class JetsonSource:
    """The INA3221 power monitor of a Jetson: the rail, or rails, that feed the module.

    `rails` are (label, file of millivolts, file of milliamps); a single file of milliwatts, as
    the older driver has it, comes with None in the last place.
    """

    rails: tuple[tuple[str, Path, Path | None], ...]
    name: str = "jetson"
    quantity: Quantity = "watts"

    @property
    def label(self) -> str:
        labels = [rail[0] for rail in self.rails]
        if len(labels) == 1:
            return f"Jetson INA3221, input rail {labels[0]} (whole module)"
        return f"Jetson INA3221, sum of the parallel input rails {' + '.join(labels)}"

    def read(self) -> float:
        """Watts into the module."""
        total = 0.0
        for _, first, second in self.rails:
            if second is None:
                total += read_number(first) * 1e-3
            else:
                total += read_number(first) * read_number(second) * 1e-6
        if total <= 0:
            raise SensorError(f"the Jetson's input rail reports {total:g} W")
        return total


_PMIC_LINE = re.compile(r"^\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([-+0-9.eE]+)[AV]\s*$")
PMIC_RAILS = 12
PMIC_SLOPE, PMIC_OFFSET = 1.1451, 0.5879


@dataclass
class PmicSource:
    """The power management chip of a Raspberry Pi 5: volts and amps of 12 rails.

    It has no input current, so the total is a published fit against a meter at the plug,
    1.1451 sum(VI) + 0.5879 W, and is labelled as one. What hangs on the 5 V rail directly (USB
    devices) is in no rail.
    """

    runner: Runner = run_command
    name: str = "pi5-pmic"
    quantity: Quantity = "watts"
    label: str = (
        "Raspberry Pi 5 PMIC, fit 1.1451 sum(VI) + 0.5879 W over 12 rails (estimate, no USB load)"
    )

    def read(self) -> float:
        """Watts of the board, by the fit."""
        volts: dict[str, float] = {}
        amps: dict[str, float] = {}
        for line in self.runner(["vcgencmd", "pmic_read_adc"]).splitlines():
            match = _PMIC_LINE.match(line)
            if match is None:
                continue
            try:
                number = float(match[3])
            except ValueError:
                continue
            (amps if match[2] == "A" else volts)[match[1]] = number
        rails = sorted(volts.keys() & amps.keys())
        if len(rails) != PMIC_RAILS:
            raise SensorError(
                f"pmic_read_adc shows {len(rails)} rails; the fit is for {PMIC_RAILS}"
            )
        return PMIC_SLOPE * sum(volts[rail] * amps[rail] for rail in rails) + PMIC_OFFSET


@dataclass
class RaplSource:
    """Energy counters of x86 processor packages (Intel and AMD): the processor, not the machine.

    A counter wraps at `max_energy_range_uj`. Subdomains (core, uncore, dram) lie inside or beside
    their package and are not added.
    """

    packages: tuple[Path, ...]
    name: str = "rapl"
    quantity: Quantity = "joules"
    _last: dict[Path, float] = field(init=False, default_factory=dict)
    _total: float = field(init=False, default=0.0)

    @property
    def label(self) -> str:
        return f"RAPL, {len(self.packages)} processor package(s) (no memory, disk or screen)"

    def read(self) -> float:
        """Joules since the first reading, wraps undone."""
        added = 0.0
        now = {package: read_number(package / "energy_uj") for package in self.packages}
        for package, value in now.items():
            delta = value - self._last.get(package, value)
            if delta < 0:
                span = read_number(package / "max_energy_range_uj")
                delta += span
                if span <= 0 or delta < 0:
                    raise SensorError(f"{package.name}: its counter went back without wrapping")
            added += delta
        self._last = now
        self._total += added * 1e-6
        return self._total


class JtopSource:
    """The total that jetson-stats computes; used where the INA3221 itself cannot be read."""

    name = "jtop"
    label = "jtop (jetson-stats), its total of the board"
    quantity: Quantity = "watts"

    def __init__(self, factory: Callable[[], Any] | None = None) -> None:
        """Connect to the jtop service. Raises SensorError if it is missing or silent."""
        if factory is None:
            try:
                from jtop import jtop  # type: ignore[import-not-found, unused-ignore]
            except ImportError as error:
                raise SensorError("jetson-stats (jtop) is not installed") from error
            factory = jtop
        try:
            self._jtop = factory()
            self._jtop.start()
        except Exception as error:  # its own exceptions have no common base
            raise SensorError(f"jtop does not answer: {error}") from error

    def read(self) -> float:
        """Watts of the board."""
        try:
            milliwatts = float(self._jtop.power["tot"]["power"])
        except Exception as error:  # a service that stopped shows itself in many ways
            raise SensorError(f"jtop gives no total: {error}") from error
        if not milliwatts > 0:
            raise SensorError(f"jtop reports {milliwatts:g} mW")
        return milliwatts * 1e-3
