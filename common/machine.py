"""What the machine is made of: processor, cores, memory; read from files that a test can make up.

Nothing here is guessed: what the machine does not say is None.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_SLOW = 0.6  # of the fastest core's capacity: a slower core would hold up all others


@dataclass(frozen=True)
class Machine:
    """A machine, as far as it tells. Memory is in bytes."""

    board: str | None
    """What the firmware calls it ("Raspberry Pi 5 Model B Rev 1.0")."""
    architecture: str
    features: frozenset[str]
    """Of the processor, by the kernel's names ("asimddp", "avx2"); empty: it does not say."""
    logical: int
    """Processors that this process may run on."""
    cores: int
    """Cores worth a thread: each counted once, the slow ones of a mixed processor left out, and
    never more than the container's share of time."""
    memory: int | None
    available: int | None
    """Memory that can be had now, within the container's limit."""


def read_machine(root: Path = Path("/")) -> Machine:
    """Read it. Never raises."""
    cpuinfo = _text(root / "proc/cpuinfo")
    numbers = _numbers(root, cpuinfo)
    quota = _quota(root)
    cores = _cores(root, numbers, cpuinfo)
    memory, available = _memory(root)
    return Machine(
        board=_board(root),
        architecture=_architecture(root, cpuinfo),
        features=_features(cpuinfo),
        logical=len(numbers),
        cores=max(1, cores if quota is None else min(cores, quota)),
        memory=memory,
        available=available,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _board(root: Path) -> str | None:
    paths = ("proc/device-tree/model", "sys/class/dmi/id/product_name")
    return next((text for path in paths if (text := _text(root / path))), None)


def _architecture(root: Path, cpuinfo: str) -> str:
    if root == Path("/"):
        return platform.machine()
    return "aarch64" if re.search(r"^CPU implementer", cpuinfo, re.MULTILINE) else "x86_64"


def _features(cpuinfo: str) -> frozenset[str]:
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def _numbers(root: Path, cpuinfo: str) -> list[int]:
    """Which processors there are, by number; of the real machine those that we may use."""
    if root == Path("/"):
        if hasattr(os, "sched_getaffinity"):
            return sorted(os.sched_getaffinity(0))
        return list(range(os.cpu_count() or 1))
    found = re.findall(r"^processor\s*:\s*(\d+)", cpuinfo, re.MULTILINE)
    return [int(number) for number in found] or [0]


def _cores(root: Path, numbers: list[int], cpuinfo: str) -> int:
    """Distinct cores among the processors, without the slow ones of a mixed processor."""
    folders = [root / f"sys/devices/system/cpu/cpu{number}" for number in numbers]
    capacity = {folder: _number(folder / "cpu_capacity") or 1024 for folder in folders}
    fastest = max(capacity.values())
    places: set[object] = set()
    for folder in folders:
        if capacity[folder] < _SLOW * fastest:
            continue
        package = _number(folder / "topology/physical_package_id")
        core = _number(folder / "topology/core_id")
        cluster = _number(folder / "topology/cluster_id")
        places.add(folder if core is None else (package, cluster, core))
    return len(places)


def _quota(root: Path) -> int | None:
    """How many processors' time a container may use (cgroup v2, v1), rounded up; None: all."""
    parts = _text(root / "sys/fs/cgroup/cpu.max").split()
    if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
        return max(1, -(-int(parts[0]) // int(parts[1])))
    quota = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return max(1, -(-quota // period)) if quota and period and quota > 0 else None


def _memory(root: Path) -> tuple[int | None, int | None]:
    meminfo = _text(root / "proc/meminfo")
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE))
    total = int(found["MemTotal"]) * 1024 if "MemTotal" in found else None
    available = int(found["MemAvailable"]) * 1024 if "MemAvailable" in found else None
    limit = _number(root / "sys/fs/cgroup/memory.max")
    used = _number(root / "sys/fs/cgroup/memory.current") or 0
    if limit is not None and (total is None or limit < total):
        total, left = limit, max(0, limit - used)
        available = left if available is None else min(available, left)
    return total, available
