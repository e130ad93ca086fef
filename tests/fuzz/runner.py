"""Fuzz for a set time: `python -m uhlm_edge.tests.fuzz.runner --seconds 600 [TARGET ...]`.

Each target runs in a process of its own. A case is a failure when it raises what it may not,
computes for longer than 2 s (the system ends the process then, in C code too), or takes memory
beyond a limit. What failed is kept below `--keep`; the last line of each target is its count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from .mutate import cases

if TYPE_CHECKING:
    from .targets import Target

HANG = 2.0  # seconds of computing, a case
MEMORY = 512 << 20  # bytes of address space beyond what the process has when it begins
BATCH = 400


def main() -> int:
    """Run the targets one after another; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with _instrumented(options.here and options.engine == "atheris"):
        from .targets import TARGETS
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.here:
        (name,) = options.targets
        fuzz = _atheris if options.engine == "atheris" else _hypothesis
        return fuzz(TARGETS[name], name, options)
    failed = [name for name in options.targets or TARGETS if _in_a_child(name, options)]
    return 1 if failed else 0


@contextmanager
def _instrumented(wanted: bool) -> Iterator[None]:
    """What is imported in the block tells atheris which lines ran."""
    if not wanted:
        yield
        return
    import atheris

    with atheris.instrument_imports(include=["uhlm_edge"]):
        yield


def _in_a_child(name: str, options: argparse.Namespace) -> bool:
    """Did the target fail? A child that was killed leaves the case it was at."""
    folder = options.keep / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __spec__.name, name, "--here", "--seed", str(options.seed)]
    command += ["--seconds", str(options.seconds), "--keep", str(options.keep)]
    done = subprocess.run([*command, "--engine", options.engine])
    current = folder / "current"
    if done.returncode < 0:
        why = signal.Signals(-done.returncode).name
        kept = _keep(folder, current.read_bytes())
        print(f"{name}: killed by {why}: {'a hang' if why == 'SIGPROF' else 'a crash'}: {kept}")
    current.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return done.returncode != 0


def _hypothesis(target: Target, name: str, options: argparse.Namespace) -> int:
    folder = options.keep / name
    run = _watched(target.run, folder)
    seeds = target.seeds()
    for case in seeds:
        run(case)
    counts = {"cases": 0, "failures": 0}
    _batch(target, seeds, lambda case: None, 0, 20)  # hypothesis makes tables at its first use
    idle = _begin_peak()
    _limit_memory()
    begun, batch = time.monotonic(), options.seed
    end = begun + options.seconds
    while time.monotonic() < end:
        batch += 1

        def some(case: bytes) -> None:
            if time.monotonic() < end:
                counts["cases"] += 1
                run(case)

        try:
            _batch(target, seeds, some, batch, BATCH)
        except Exception:
            counts["failures"] += 1
            traceback.print_exc()
            print("kept:", _keep(folder, (folder / "current").read_bytes()), file=sys.stderr)
    seconds = round(time.monotonic() - begun, 1)
    figures = {"target": name, "seconds": seconds, **counts, "seed": options.seed}
    print(json.dumps({**figures, "idle_mb": idle >> 20, "peak_mb": _peak() >> 20}), flush=True)
    return 1 if counts["failures"] else 0


def _batch(
    target: Target, seeds: list[bytes], run: Callable[[bytes], None], number: int, count: int
) -> None:
    """So many cases; the first that fails is made small and raised."""
    how = settings(
        max_examples=count, database=None, deadline=None, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    seeded(number)(how(given(cases(seeds, target.form))(lambda case: run(case))))()


def _atheris(target: Target, name: str, options: argparse.Namespace) -> int:
    """The same, guided by coverage of this project's code. It ends the process itself."""
    import atheris

    run = _watched(target.run, options.keep / name)
    corpus = options.keep / name / "corpus"
    corpus.mkdir(exist_ok=True)
    for i, case in enumerate(target.seeds()):
        (corpus / f"seed{i}").write_bytes(case)
    arguments = [f"-max_total_time={int(options.seconds)}", f"-seed={options.seed}", "-timeout=10"]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], lambda data: run(bytes(data)))
    atheris.Fuzz()
    return 0


def _watched(run: Callable[[bytes], None], folder: Path) -> Callable[[bytes], None]:
    """The target with each case written down before, and ended by the system if it hangs."""
    handle = os.open(folder / "current", os.O_RDWR | os.O_CREAT, 0o600)

    def watched(case: bytes) -> None:
        os.ftruncate(handle, 0)
        os.pwrite(handle, case, 0)
        signal.setitimer(signal.ITIMER_PROF, HANG)
        try:
            run(case)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    return watched


def _keep(folder: Path, case: bytes) -> Path:
    path = folder / hashlib.sha256(case).hexdigest()[:16]
    path.write_bytes(case)
    return path


def _begin_peak() -> int:
    """Forget the peak so far, where the system can; bytes that are resident now."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The most bytes that were resident."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _limit_memory() -> None:
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))


if __name__ == "__main__":
    sys.exit(main())
