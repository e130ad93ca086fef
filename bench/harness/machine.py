"""What the numbers were measured on: the device, the build, the model. For every table."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from ... import __version__
from ...common.machine import read_machine


def machine_info(root: Path = Path("/")) -> dict[str, object]:
    """The device: names as llama-bench has them where it has them. Unknown is None."""
    machine = read_machine(root)
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    named = re.search(r"^(?:model name|Model)\s*: *(.+)$", cpuinfo, re.MULTILINE)
    return {
        "cpu_info": named[1] if named else platform.processor() or None,
        "device": machine.board,
        "n_cores": machine.logical,
        "memory_bytes": machine.memory,
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def build_info() -> dict[str, object]:
    """The versions that compute: this package, llama.cpp and what it was compiled for."""
    from ...lm.engines.llama_build import llama_build

    return {"uhlm_edge": __version__, **llama_build()}
