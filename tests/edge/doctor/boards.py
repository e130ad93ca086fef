"""Made-up boards for the doctor: what the kernel's files hold on a Pi 4, a Pi 5, a Jetson Orin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from uhlm_edge.edge.device.power import Runner, SensorError

DATA = Path(__file__).parents[2] / "data"
_A72 = "fp asimd evtstrm crc32 cpuid"
_A76 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
_BOARDS = {  # cores, features, kilobytes of memory, sensors in devices.json
    "pi4": (4, _A72, 3884000, "pi4-ups"),
    "pi5": (4, _A76, 8245000, "pi5"),
    "jetson": (6, _A76, 7620000, "jetson-orin"),
}


def board(root: Path, name: str) -> Path:
    """Write the tree of a board under `root`."""
    cores, features, memory, sensors = _BOARDS[name]
    tree = dict(json.loads((DATA / "devices.json").read_text())[sensors])
    tree["proc/cpuinfo"] = "\n\n".join(
        f"processor\t: {i}\nFeatures\t: {features}\nCPU implementer\t: 0x41" for i in range(cores)
    )
    tree["proc/meminfo"] = f"MemTotal: {memory:>12} kB\nMemAvailable: {memory * 3 // 4:>10} kB"
    for i in range(cores):
        tree[f"sys/devices/system/cpu/cpu{i}/topology/core_id"] = str(i)
        tree[f"sys/devices/system/cpu/cpu{i}/topology/physical_package_id"] = "0"
    for path, content in tree.items():
        put(root, path, content)
    return root


def put(root: Path, path: str, content: str) -> None:
    """Write one file of the tree."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content + "\n")


def vcgencmd(said: str) -> Runner:
    """A firmware that answers `said` to get_throttled, and nothing else."""

    def run(command: Sequence[str]) -> str:
        if command[-1] == "get_throttled":
            return said
        raise SensorError("not this board")

    return run
