"""Fuzz for a set time: `python -m uhlm_edge.tests.fuzz.runner --seconds 600 [TARGET ...]`.

Each target runs in a process of its own. A case is a failure when it raises what it may not,
computes for longer than 2 s (the system ends the process then, in C code too), takes longer than
2 s in each of three tries (less what others take of the processor; or 30 s in one), or brings the
memory of the process to more than twice of what it had when idle. What failed is kept below
`--keep`, and the exit code is 1; the last line of each target has its counts: cases, the longest
computing and the longest time of one case, tries for time, memory idle and at its peak.
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

HANG = 2.0  # seconds of computing, a case; and of its time, where no other program takes it
TRIES = 3
WAIT = 30.0  # seconds of a case, whoever takes them
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
        what = "a hang" if why in ("SIGPROF", "SIGALRM") else "a crash"
        print(f"{name}: killed by {why}: {what}: {kept}")
    current.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return done.returncode != 0


def _hypothesis(target: Target, name: str, options: argparse.Namespace) -> int:
    folder, seeds = options.keep / name, target.seeds()
    watch = Watch(target, folder)
    for case in seeds:
        watch(case)
    _batch(target, seeds, lambda case: None, 0, 20)  # hypothesis makes tables at its first use
    watch.begin(options.seconds)
    batch, failures = options.seed, 0
    while not watch.over():
        batch += 1

        def some(case: bytes) -> None:
            if not watch.over():
                watch(case)

        try:
            _batch(target, seeds, some, batch, BATCH)
        except Exception:
            failures += 1
            traceback.print_exc()
            print("kept:", _keep(folder, (folder / "current").read_bytes()), file=sys.stderr)
    print(json.dumps({"target": name, **watch.figures(), "failures": failures}), flush=True)
    return 1 if failures else 0


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
    """The same, guided by coverage of this project's code; it ends at the first failure."""
    import atheris

    watch = Watch(target, options.keep / name)
    corpus = options.keep / name / "corpus"
    corpus.mkdir(exist_ok=True)
    for i, case in enumerate(target.seeds()):
        (corpus / f"seed{i}").write_bytes(case)
        watch(case)

    def one(data: bytes) -> None:
        if watch.over():
            print(json.dumps({"target": name, **watch.figures(), "failures": 0}), flush=True)
            os._exit(0)
        try:
            watch(bytes(data))
        except Exception:
            traceback.print_exc()
            print("kept:", _keep(options.keep / name, bytes(data)), file=sys.stderr, flush=True)
            os._exit(1)

    # Its own watches are off: ours see computing, and memory beyond the idle process.
    arguments = [f"-seed={options.seed}", "-timeout=0", "-rss_limit_mb=0", "-max_len=65536"]
    arguments.append(f"-artifact_prefix={options.keep / name}/")
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one)
    watch.begin(options.seconds)
    atheris.Fuzz()
    return 0


class Watch:
    """Runs cases: each is written down before, ended by the system if it hangs, and measured."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._run, self._child = target.run, target.child
        self._handle = os.open(folder / "current", os.O_RDWR | os.O_CREAT, 0o600)
        self._begun = self._end = self._computing = 0.0
        self._idle = self._peak = 0  # bytes
        self._cases = self._again = 0
        self._computed = self._took = 0.0  # seconds, the most of one case

    def begin(self, seconds: float) -> None:
        """The process is idle now; so long may it go on."""
        _forget_peak()
        self._idle = self._peak = _peak()
        self._cases, self._again, self._computed, self._took = 0, 0, 0.0, 0.0
        _limit_memory()
        self._begun, self._computing = time.monotonic(), _computing()
        self._end = self._begun + seconds

    def over(self) -> bool:
        """Has the time passed?"""
        return time.monotonic() > self._end

    def __call__(self, case: bytes) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, case, 0)
        self._cases += 1
        took = self._once(case)
        for _ in range(1, TRIES):
            if took > HANG:  # by itself, or because others have the processor?
                self._again += 1
                took = min(took, self._once(case) / _slowness())
        if took > HANG:
            raise TimeoutError(f"{took:.1f} s at least in each of {TRIES} tries")
        if self._idle:
            peak = _peak()
            self._peak = max(self._peak, peak)
            if peak > 2 * self._idle:
                _forget_peak()
                raise MemoryError(f"{peak >> 20} MB, with {self._idle >> 20} MB when idle")

    def _once(self, case: bytes) -> float:
        """Run it; the seconds that it took."""
        signal.setitimer(signal.ITIMER_PROF, HANG)
        signal.setitimer(signal.ITIMER_REAL, WAIT)
        computing, begun = _computing(), time.monotonic()
        try:
            self._run(case)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            took = time.monotonic() - begun
            self._computed = max(self._computed, _computing() - computing)
            self._took = max(self._took, took)
        return took

    def figures(self) -> dict[str, float]:
        """What the last line says."""
        child = self._child
        apart = {"child_idle_mb": child.idle, "child_peak_mb": child.peak} if child else {}
        return {
            "seconds": round(time.monotonic() - self._begun, 1),
            "computing_s": round(_computing() - self._computing, 1),
            "cases": self._cases,
            "longest_computing_ms": round(1e3 * self._computed, 1),
            "longest_ms": round(1e3 * self._took, 1),
            "tried_again": self._again,
            "idle_mb": self._idle >> 20,
            "peak_mb": self._peak >> 20,
            "peak_over_idle": round(self._peak / self._idle, 2),
            **{name: size >> 20 for name, size in apart.items()},
        }


def _computing() -> float:
    """Seconds of this process and of children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def _slowness() -> float:
    """Seconds that a second of computing takes while others use the processors too."""
    computing, begun = time.process_time(), time.monotonic()
    while (used := time.process_time() - computing) < 0.2:
        pass
    return max(1.0, (time.monotonic() - begun) / used)


def _keep(folder: Path, case: bytes) -> Path:
    path = folder / hashlib.sha256(case).hexdigest()[:16]
    path.write_bytes(case)
    return path


def _forget_peak() -> None:
    """Begin anew with the peak, where the system can."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


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
