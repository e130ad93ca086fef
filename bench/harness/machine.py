"""What the numbers were measured on: the device, the build, the model. For every table."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from ... import __version__
from ...edge.device.sensors import device_model


def machine_info(root: Path = Path("/")) -> dict[str, object]:
    """The device: names as llama-bench has them where it has them. Unknown is None."""
    return {
        "cpu_info": _cpu(root),
        "device": device_model(root),
        "n_cores": _cores(),
        "memory_bytes": _memory(root),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def build_info() -> dict[str, object]:
    """The versions that compute: this package, llama.cpp and what it was compiled for."""
    from ...lm.engines.llama_build import llama_build

    return {"uhlm_edge": __version__, **llama_build()}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu(root: Path) -> str | None:
    fields: Mapping[str, str] = _fields(root / "proc/cpuinfo")
    return fields.get("model name") or fields.get("Model") or platform.processor() or None


def _memory(root: Path) -> int | None:
    match = re.match(r"(\d+) kB", _fields(root / "proc/meminfo").get("MemTotal", ""))
    return int(match[1]) * 1024 if match else None


def _fields(path: Path) -> dict[str, str]:
    """`name : value` lines; the first of each name."""
    fields: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return fields
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields
