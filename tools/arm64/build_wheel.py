"""Cross-compile llama-cpp-python for a board: `python tools/arm64/build_wheel.py TARGET FOLDER`.

Needs Debian's cross compiler (`apt install crossbuild-essential-arm64`), pip's index and the
`wheel` package. The wheel is made once, and kept in FOLDER.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
COMPILER = "aarch64-linux-gnu-g++"
ELF_AARCH64 = 183

# What the processor of each target has. A Pi 4 (Cortex-A72) knows neither dot products nor half
# precision, and dies of them; a Pi 5 (Cortex-A76) and a Jetson Orin (A78AE) have both.
ARCHITECTURES = {"pi4": "armv8-a+crc", "pi5": "armv8.2-a+dotprod+fp16", "generic": "armv8-a"}
TAG = "linux_aarch64"


def requirement() -> str:
    """The range of llama-cpp-python that the project asks for."""
    text = (TOOLS.parent / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'"(llama-cpp-python[^"]*)"', text)
    if match is None:
        raise SystemExit("build_wheel: pyproject.toml names no llama-cpp-python")
    return match[1]


def cmake_args(target: str) -> str:
    """The flags of a cross build for `target`."""
    flags = {
        "CMAKE_TOOLCHAIN_FILE": TOOLS / "arm64" / "toolchain.cmake",
        "CMAKE_PROJECT_llama.cpp_INCLUDE": TOOLS / "llama_only.cmake",
        "GGML_NATIVE": "OFF",
        "GGML_CPU_ARM_ARCH": ARCHITECTURES[target],
        "LLAVA_BUILD": "OFF",
    }
    return " ".join(f"-D{name}={value}" for name, value in flags.items())


def build(target: str, folder: Path, jobs: int = 2) -> Path:
    """Return the wheel for `target`, compiled unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    if found := sorted(folder.glob("llama_cpp_python-*.whl")):
        return found[-1]
    if shutil.which(COMPILER) is None:
        raise SystemExit(
            f"build_wheel: {COMPILER} is missing: `apt install crossbuild-essential-arm64`"
        )
    environment = {
        **os.environ,
        "CMAKE_ARGS": cmake_args(target),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
    }
    with tempfile.TemporaryDirectory() as scratch:
        # Without the cache: pip would keep this wheel under the host's tag and install it there.
        command = [sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--verbose"]
        command += ["--no-binary", "llama-cpp-python", "--wheel-dir", scratch, requirement()]
        with (folder / "build.log").open("wb") as log:
            done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise SystemExit(f"build_wheel: pip failed, see {folder / 'build.log'}")
        made = next(Path(scratch).glob("llama_cpp_python-*.whl"))
        require_aarch64(made)
        tags = ["--python-tag", "py3", "--abi-tag", "none", "--platform-tag", TAG]
        command = [sys.executable, "-m", "wheel", "tags", "--remove", *tags, str(made)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        wheel = folder / next(Path(scratch).glob("llama_cpp_python-*.whl")).name
        shutil.move(Path(scratch) / wheel.name, wheel)
    return wheel


def require_aarch64(wheel: Path) -> None:
    """Refuse a wheel with a library for another processor, or with none."""
    with zipfile.ZipFile(wheel) as archive:
        heads = {name: archive.open(name).read(20) for name in archive.namelist()}
    machines = {
        name: int.from_bytes(head[18:20], "little")
        for name, head in heads.items()
        if head[:4] == b"\x7fELF"
    }
    wrong = [name for name, machine in machines.items() if machine != ELF_AARCH64]
    if wrong or not machines:
        raise SystemExit(f"build_wheel: not for aarch64: {', '.join(wrong) or 'no library at all'}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ARCHITECTURES:
        sys.exit(f"usage: build_wheel.py {{{','.join(ARCHITECTURES)}}} FOLDER")
    print(build(sys.argv[1], Path(sys.argv[2]), int(os.environ.get("JOBS", "2"))))
