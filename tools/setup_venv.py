"""Set up a virtual environment with the project in it, and show how far it has come.

Run as `python tools/setup_venv.py VENV EXTRAS`, for instance `.venv cloud,dev`; the Makefile does.
llama-cpp-python comes as source and is compiled here: minutes, during which pip is silent.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

COMPILERS = ("c++", "g++", "clang++")
LLAMA = "lib/python*/site-packages/llama_cpp"
EVERY = 30.0  # seconds between two lines where no terminal shows one that changes
TAIL = 30  # lines of pip's log shown when it fails

_STEP = re.compile(r"\s*\[(\d+)/(\d+)\] \S")  # ninja
_PHASE = re.compile(r"\s*((?:Collecting|Building wheel for) [\w.-]+|Installing collected packages)")


def main(venv: str, extras: str) -> int:
    """Create `venv` where it is missing, install the project with `extras`; return a status."""
    home = Path(venv).absolute()
    usable = is_usable(home)
    if complaint := problem(compiles=not (usable and any(home.glob(LLAMA)))):
        print(f"setup: {complaint}", file=sys.stderr)
        return 2
    print(
        f"Setting up {venv} with {extras}. The first time this compiles llama.cpp,"
        " a few minutes on two cores.",
        file=sys.stderr,
    )
    if not usable:
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", venv])
        if made.returncode:
            return made.returncode
        (home / ".path").write_text(f"{home}\n", encoding="utf-8")
    pip = [os.fspath(home / "bin" / "python"), "-m", "pip", "--verbose", "--no-input"]
    install = ["install", "--progress-bar=off", "--editable", f".[{extras}]"]
    environment = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", **os.environ, "CMAKE_ARGS": cmake_args()}
    return watch(pip + install, environment, home / "setup.log", Progress(sys.stderr))


def cmake_args(given: str | None = None) -> str:
    """The flags for llama.cpp: only its library, and then what the user gives in CMAKE_ARGS."""
    given = os.environ.get("CMAKE_ARGS", "") if given is None else given
    only = Path(__file__).resolve().with_name("llama_only.cmake")
    own = ["-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={only}"]
    return f"{shlex.join(own)} {given}".strip()


def is_usable(home: Path) -> bool:
    """Whether `home` is a whole virtual environment that was made where it lies now."""
    note = home / ".path"
    made_at = note.read_text(encoding="utf-8").strip() if note.exists() else ""
    return made_at == str(home) and all(
        (home / "bin" / name).exists() for name in ("python", "pip")
    )


def problem(*, compiles: bool) -> str:
    """Return in one line what this machine lacks, "" if nothing."""
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        return "Python's venv module is missing: install it, on Debian `apt install python3-venv`"
    named = os.environ.get("CXX", "").split()[:1]
    if compiles and not any(map(shutil.which, [*named, *COMPILERS])):
        return "a C++ compiler is missing: install one, on Debian `apt install g++`"
    return ""


class Progress:
    """Where pip is: one line that changes on a terminal, elsewhere a line every 30 seconds."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self.started = self.shown = time.monotonic()

    def show(self, line: str) -> None:
        """Show the state that pip's output `line` tells of, if it tells of one and it is time."""
        state = state_of(line)
        now = time.monotonic()
        if not state or (not self.terminal and now - self.shown < EVERY):
            return
        self.shown = now
        minutes, seconds = divmod(int(now - self.started), 60)
        text = f"{minutes}:{seconds:02} {state}"
        print(f"\r\033[K{text[:79]}" if self.terminal else f"{text}\n", end="", file=self.out)
        self.out.flush()

    def close(self) -> None:
        """Leave the line that changes."""
        if self.terminal:
            print("\r\033[K", end="", file=self.out, flush=True)


def state_of(line: str) -> str:
    """Return what a line of pip's output says about progress, "" if nothing."""
    if step := _STEP.match(line):
        return f"compiling llama.cpp, step {step[1]} of {step[2]}"
    phase = _PHASE.match(line)
    return phase[1] if phase else ""


def watch(command: list[str], environment: dict[str, str], log: Path, progress: Progress) -> int:
    """Run `command`, keep its output in `log`, show its progress, and its end if it fails."""
    tail: deque[str] = deque(maxlen=TAIL)
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        for line in process.stdout or ():
            kept.write(line)
            tail.append(line)
            progress.show(line)
    progress.close()
    if process.returncode:
        sys.stderr.writelines(tail)
        print(f"setup: pip failed, see the lines above and {log}", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nsetup: stopped; the next run goes on from here", file=sys.stderr)
        sys.exit(130)
