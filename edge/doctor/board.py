"""Memory, cores, heat, disk, clock and energy of the device."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ...common.machine import Machine
from ...common.text import human_bytes
from ...lm.engines.memory import cache_bytes, need
from ...lm.engines.options import EngineOptions
from ...lm.gguf.header import Header
from ..device.sensors import Sensors
from ..device.thermal import HeatState
from .finding import Finding

_HOT = 80.0  # degrees Celsius: from there boards slow down, or soon will
_LITTLE_DISK = 1 << 30
_NO_DISK = 100 << 20
_CAUSES = {
    "under-voltage": "use the board's own power supply and a short cable",
    "throttled": "cool it: a heat sink with a fan, or fewer threads",
    "soft temperature limit": "cool it: a heat sink with a fan, or fewer threads",
    "frequency capped": "cool it or use a stronger power supply",
}


def check_memory(machine: Machine, header: Header, options: EngineOptions, n_ctx: int) -> Finding:
    """Do weights, cache and the process fit into what is free?"""
    needed = need(header, options, n_ctx)
    cache = cache_bytes(header, options, n_ctx)
    facts = {
        "needed_bytes": needed, "cache_bytes": cache, "available_bytes": machine.available,
        "total_bytes": machine.memory, "n_ctx": n_ctx,
    }  # fmt: skip
    if machine.available is None or machine.memory is None:
        return Finding("memory", "warn", "the system does not say how much is free", "", facts)
    free = f"{human_bytes(machine.available)} of {human_bytes(machine.memory)} free"
    if needed is None or cache is None:
        return Finding("memory", "warn", f"the model does not say what it needs; {free}", "", facts)
    text = (
        f"model and a context of {n_ctx:,} take about {human_bytes(needed)} "
        f"(cache {human_bytes(cache)}); {free}"
    )
    advice = "a smaller n_ctx, cache_type_k and cache_type_v = 'q8_0', or a smaller model"
    if needed > machine.available:
        if needed > machine.memory:
            return Finding("memory", "fail", f"{text}: too little", advice, facts)
        return Finding("memory", "warn", f"{text}: too little now", advice, facts)
    if needed > 0.8 * machine.available:
        return Finding("memory", "warn", f"{text}: tight", advice, facts)
    return Finding("memory", "ok", text, "", facts)


def check_threads(machine: Machine, options: EngineOptions) -> Finding:
    """More threads than cores: each pass waits for the thread that has none."""
    threads = max(options.n_threads, options.n_threads_batch)
    facts = {
        "cores": machine.cores, "processors": machine.logical, "n_threads": options.n_threads,
        "n_threads_batch": options.n_threads_batch,
    }  # fmt: skip
    text = (
        f"cores: {machine.cores}; threads for single tokens: {options.n_threads}, "
        f"for many: {options.n_threads_batch}"
    )
    if threads > machine.cores:
        advice = f"at most one per core: set n_threads and n_threads_batch to {machine.cores}"
        return Finding("threads", "warn", f"{text}: more than cores", advice, facts)
    return Finding("threads", "ok", text, "", facts)


def check_heat(heat: HeatState) -> Finding:
    """Is the board slowed down, now or since it started?"""
    facts = heat.row()
    hottest = heat.hottest
    if hottest is None and heat.throttled_now is None and heat.frequency_mhz is None:
        return Finding("heat", "ok", "not measured: the board tells nothing of its heat", "", facts)
    parts = [] if hottest is None else [f"{hottest:.0f} degrees Celsius"]
    if heat.frequency_mhz is not None and heat.frequency_max_mhz is not None:
        parts.append(f"{heat.frequency_mhz:.0f} of {heat.frequency_max_mhz:.0f} MHz")
    now = [*(heat.throttled_now or ()), *(f"{zone} at its limit" for zone in heat.trip)]
    since = list(heat.throttled_since_boot or ())
    advice = "; ".join(dict.fromkeys(_CAUSES[c] for c in [*now, *since] if c in _CAUSES))
    if now:
        text = ", ".join([*parts, f"slowed down now: {', '.join(now)}"])
        return Finding("heat", "warn", text, advice or _CAUSES["throttled"], facts)
    if since:
        text = ", ".join([*parts, f"slowed down since it started: {', '.join(since)}"])
        return Finding("heat", "warn", text, advice, facts)
    if hottest is not None and hottest >= _HOT:
        return Finding("heat", "warn", ", ".join(parts), _CAUSES["throttled"], facts)
    return Finding("heat", "ok", ", ".join(parts) or "not slowed down", "", facts)


def check_disk(
    folder: Path, free_bytes: Callable[[Path], int] = lambda p: shutil.disk_usage(p).free
) -> Finding:
    """Is there room for models, caches and logs?"""
    there = next(p for p in (folder, *folder.parents) if p.is_dir())
    free = free_bytes(there)
    facts = {"folder": str(folder), "free_bytes": free}
    text = f"{human_bytes(free)} free at {folder}"
    advice = "remove models (`uhlm-edge models remove`) or set UHLM_MODELS to a larger disk"
    if free < _NO_DISK:
        return Finding("disk", "fail", text, advice, facts)
    if free < _LITTLE_DISK:
        return Finding("disk", "warn", text, advice, facts)
    return Finding("disk", "ok", text, "", facts)


def check_clock(root: Path, installed: Path, now: Callable[[], float] = time.time) -> Finding:
    """A board without a clock of its own that starts in the past trusts no certificate."""
    behind = installed.stat().st_mtime - now()
    facts = {"behind_installation_s": round(max(0.0, behind), 1)}
    advice = "let it set its clock: timedatectl set-ntp true"
    if behind > 86400:
        text = "the clock is before the day of the installation: certificates are not trusted"
        return Finding("clock", "fail", text, advice, facts)
    if (root / "run/systemd/timesync").is_dir():
        if not (root / "run/systemd/timesync/synchronized").exists():
            return Finding("clock", "warn", "not yet set over the network", advice, facts)
        return Finding("clock", "ok", "set over the network", "", facts)
    return Finding("clock", "ok", "plausible; whether it is set is not known", "", facts)


def check_energy(sensors: Sensors) -> Finding:
    """What the device's power is measured by. Without a source everything works, unmeasured."""
    facts = {"sources": [s.name for s in sensors.sources], "missing": sensors.missing}
    if sensors.sources:
        return Finding("energy", "ok", "; ".join(s.label for s in sensors.sources), "", facts)
    reasons = "; ".join(f"{name}: {why}" for name, why in sensors.missing.items())
    advice = "to measure it, put a meter at the plug: uhlm-edge bench energy --help"
    return Finding("energy", "ok", f"not measured ({reasons})", advice, facts)
