"""What a device can tell about itself: power, battery, heat. Or the reason why it cannot.

`discover()` looks for each kind of power sensor and returns the ones that answered, best first
(those that see the whole device before those that see the processor), and a reason for every
other. "Not measured" always has a reason; it is never 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.machine import read_machine
from .power import (
    BatterySource,
    JetsonSource,
    JtopSource,
    PmicSource,
    PowerSource,
    RaplSource,
    Runner,
    SensorError,
    number_or_none,
    run_command,
    text_or,
)

# The rail that feeds the module, by board: Orin Nano/NX, Xavier NX, TX1, TX2 have VDD_IN, the
# Nano has POM_5V_IN, some documents call it 5V_IN (NVIDIA Jetson Linux developer guide).
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "5V_IN")
# Boards without one: rails that branch off the input side by side. The AGX Orin's fourth rail,
# VDDQ_VDD2_1V8AO (memory), is left out: if it hangs below VIN_SYS_5V0, adding it counts it twice.
PARALLEL_RAILS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)

Rail = tuple[str, Path, "Path | None"]


@dataclass(frozen=True)
class Sensors:
    """The power sources of a device, best first, and why the others are missing."""

    sources: tuple[PowerSource, ...]
    missing: dict[str, str]
    """Reason by the name of each source that is not there."""

    def pick(self, name: str | None = None) -> PowerSource:
        """The best source, or the one named. Raises SensorError with every reason."""
        for source in self.sources:
            if name in (None, source.name):
                return source
        reasons = self.missing if name is None else {name: self.missing.get(name, "unknown")}
        raise SensorError(
            "power is not measured: " + "; ".join(f"{n}: {why}" for n, why in reasons.items())
        )

    def second(self, first: PowerSource) -> PowerSource | None:
        """Another source that measures by itself: what a Jetson's two ways read is one chip."""
        same = {"jetson", "jtop"} if first.name in ("jetson", "jtop") else {first.name}
        return next((source for source in self.sources if source.name not in same), None)


@dataclass(frozen=True)
class BatteryState:
    """A battery at one moment. What it does not report is None."""

    name: str
    status: str
    percent: float | None
    energy_wh: float | None
    full_wh: float | None


def discover(root: Path = Path("/"), runner: Runner = run_command) -> Sensors:
    """Look for every kind of power source, trying one reading of each. Never raises."""
    sources: list[PowerSource] = []
    missing: dict[str, str] = {}
    makers: dict[str, Callable[[], PowerSource]] = {
        "jetson": lambda: _jetson(root),
        "pi5-pmic": lambda: _pmic(root, runner),
        "battery": lambda: _battery(root),
        "rapl": lambda: _rapl(root),
    }
    for name, make in makers.items():
        try:
            source = make()
            source.read()
        except SensorError as error:
            missing[name] = str(error)
        else:
            sources.append(source)
    if root == Path("/") and not any(source.name == "jetson" for source in sources):
        try:
            jtop = JtopSource()
            jtop.read()
            sources.insert(0, jtop)
        except SensorError as error:
            missing["jtop"] = str(error)
    return Sensors(tuple(sources), missing)


def read_battery(root: Path = Path("/")) -> BatteryState | None:
    """The first system battery, or None where there is none."""
    for path in _batteries(root):
        volts = number_or_none(path / "voltage_now") or number_or_none(path / "voltage_min_design")

        def energy(what: str, path: Path = path, volts: float | None = volts) -> float | None:
            direct = number_or_none(path / f"energy_{what}")
            if direct is not None:
                return direct * 1e-6
            charge = number_or_none(path / f"charge_{what}")
            return None if charge is None or volts is None else charge * 1e-6 * volts * 1e-6

        status = text_or(path / "status", "Unknown")
        percent = number_or_none(path / "capacity")
        return BatteryState(path.name, status, percent, energy("now"), energy("full"))
    return None


def _batteries(root: Path) -> list[Path]:
    """The batteries that feed the device; those of a mouse or a headset have scope "Device"."""
    found = []
    for path in sorted(root.glob("sys/class/power_supply/*")):
        is_there = text_or(path / "type", "") == "Battery" and number_or_none(path / "present") != 0
        if is_there and text_or(path / "scope", "") != "Device":
            found.append(path)
    return found


def _battery(root: Path) -> BatterySource:
    batteries = _batteries(root)
    if not batteries:
        raise SensorError("no battery")
    return BatterySource(tuple(batteries))


def _pmic(root: Path, runner: Runner) -> PmicSource:
    model = read_machine(root).board or ""
    if not re.search(r"Raspberry Pi (5|Compute Module 5|500)", model):
        raise SensorError("not a Raspberry Pi 5")
    return PmicSource(runner)


def _rapl(root: Path) -> RaplSource:
    packages = []
    for path in sorted(root.glob("sys/class/powercap/intel-rapl:*")):
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of one.
        if re.fullmatch(r"intel-rapl:\d+", path.name) and text_or(path / "name", "").startswith(
            "package"
        ):
            packages.append(path)
    if not packages:
        raise SensorError("no processor package counters (not x86, or a virtual machine)")
    return RaplSource(tuple(packages))


def _jetson(root: Path) -> JetsonSource:
    rails = _ina3221(root)
    if not rails:
        raise SensorError("no INA3221 power monitor (not a Jetson)")
    for name in INPUT_RAILS:
        if name in rails:
            return JetsonSource((rails[name],))
    for names in PARALLEL_RAILS:
        if all(name in rails for name in names):
            return JetsonSource(tuple(rails[name] for name in names))
    raise SensorError(f"an INA3221 with no known input rail: {', '.join(sorted(rails))}")


def _ina3221(root: Path) -> dict[str, Rail]:
    """Rails by label, from the mainline driver (hwmon) or the older one (iio)."""
    rails: dict[str, Rail] = {}
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if text_or(chip / "name", "") != "ina3221":
            continue
        for channel in (1, 2, 3):  # in4 to in6 are shunt voltages, in7 their sum
            if not (label := text_or(chip / f"in{channel}_label", "")):
                continue
            millivolts, milliamps = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            rails.setdefault(label, (label, millivolts, milliamps))
    for file in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")):
        if label := text_or(file, ""):
            milliwatts = file.parent / f"in_power{file.name.rsplit('_', 1)[1]}_input"
            rails.setdefault(label, (label, milliwatts, None))
    return rails
