"""Hours of ordinary life in minutes: the demo pair, several devices, faults at random.

`python -m uhlm_edge.tests.faults.soak --minutes 30 [--devices 8] [--seed 1] [--out FILE]`

Devices chat with a verifier of their own through a proxy that misbehaves now and then. In the first
40 % of the time the verifier is, now and then, killed and started again, or stopped for a while.
Memory and open files of both processes are sampled. At the end stands a table; the exit code is 1
if a reply was lost or memory grew. The first half of the devices' time, and of the last verifier's
life, is warm-up and not fitted.

A fault can keep a device's goodbye from the verifier, which then remembers the session, and parks
what it has read: up to four more for each of `--sessions`, and up to `parked_mb`. So it is given
few of both, and is full before the fit begins.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import requests

from uhlm_edge.common.errors import UhlmError
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.events import Token
from uhlm_edge.edge.link.http import HttpLink

from .proxy import KINDS, FaultyProxy

BLOCKS, STUDENT = 10, 2.306  # 95 % of Student's t with 8 degrees of freedom
DEADLINE = 5.0  # seconds
PARKED = 12  # MB
RESTARTS = 0.4  # of the time: later the last verifier's memory is watched
FOR_GOOD = {"401", "403"}  # a device stops asking, and that is right
STRATEGIES = ("uhlm", "hlm", "spec", "cloud", "reward", "rand", "ensemble")
QUESTIONS = (
    "What is the capital of Peru?", "What is 17 plus 25?", "Spell the word farmer.",
    "I would like to book a table for two in Albany tonight.", "Make it at two pm.",
    "Hugo buys 26 candles at 2 dollars each. How much does Hugo pay?",
)  # fmt: skip


@dataclass
class Tally:
    """What happened."""

    started: int = 0
    ended: int = 0
    tokens: int = 0
    unverified: int = 0
    restarts: int = 0
    stops: int = 0
    lost: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Replies that began and neither ended nor are told of in `lost`."""
        return self.started - self.ended - len(self.lost)


@dataclass(frozen=True)
class Sample:
    """One look at a process: when (s), resident memory (MB), open files."""

    process: str
    pid: int
    time: float
    memory: float
    files: int


class Verifier:
    """`uhlm-edge cloud` on a port that stays the same."""

    def __init__(self, port: int, sessions: int) -> None:
        self._port, self._sessions = port, sessions
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "uhlm_edge.cli", "cloud", "--threads", "1"]
        command += ["--sessions", str(self._sessions), "--port", str(self._port)]
        few = {**os.environ, "UHLM_VERIFIER_PARKED_MB": str(PARKED)}
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=few)

    def remembers(self) -> str:
        """Sessions and what of them is parked, as it tells."""
        url = f"http://127.0.0.1:{self._port}/metrics"
        told = dict(line.rsplit(" ", 1) for line in requests.get(url, timeout=30).text.splitlines())
        parked = float(told["uhlm_parked_bytes"]) / 2**20
        return f"{float(told['uhlm_sessions']):.0f} sessions, {parked:.1f} MB of them parked"

    def trouble(self, stop: bool, tally: Tally) -> None:
        """Stop it for longer than a deadline, or kill it and start it again."""
        if stop:
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(1.6 * DEADLINE)
            self.process.send_signal(signal.SIGCONT)
            tally.stops += 1
        else:
            self.kill()
            self.start()
            tally.restarts += 1

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def look(process: str, pid: int, when: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    memory = int(status.partition("VmRSS:")[2].split()[0]) / 1024.0
    return Sample(process, pid, when, memory, len(os.listdir(f"/proc/{pid}/fd")))


def slope(samples: list[Sample]) -> tuple[float, float]:
    """Least-squares slope of memory in MB per hour and half of its 95 % interval.

    Neighbours in time are alike, so it is fitted through the means of ten blocks.
    """
    if len(samples) < 2 * BLOCKS:
        return float("nan"), float("nan")
    blocks = np.array_split(np.array([(s.time / 3600.0, s.memory) for s in samples]), BLOCKS)
    means = np.array([block.mean(axis=0) for block in blocks])
    fit, covariance = np.polyfit(means[:, 0], means[:, 1], 1, cov="unscaled")
    spread = float(np.sum((np.polyval(fit, means[:, 0]) - means[:, 1]) ** 2)) / (BLOCKS - 2)
    return float(fit[0]), STUDENT * float(np.sqrt(covariance[0, 0] * spread))


def device(proxy: str, home: str, number: int, seed: int, end: float, tally: Tally) -> None:
    """Chat until the end; a reply must be at least one token, or end by itself."""
    rng = random.Random(seed * 100 + number)
    while time.monotonic() < end:
        flags: dict[tuple[str, ...], object] = {
            ("strategy", "name"): rng.choice(STRATEGIES),
            ("strategy", "threshold"): 0.3,
            ("chat", "max_tokens"): 40,
            ("cloud", "deadline"): DEADLINE,
        }
        config = load_config(flags, "demo", environment={"XDG_CONFIG_HOME": home}).config
        environment = {"XDG_CONFIG_HOME": home, "XDG_STATE_HOME": home, "XDG_CACHE_HOME": home}
        try:
            with assemble(config, lambda _: None, HttpLink(proxy), environment) as assistant:
                for _ in range(6):
                    tally.started += 1
                    said = [
                        event
                        for event in assistant.reply(rng.choice(QUESTIONS))
                        if isinstance(event, Token)
                    ]
                    assert assistant.loop is not None
                    tally.ended += 1
                    tally.tokens += len(said)
                    tally.unverified += assistant.loop.stats.unverified
                    if not said or [t.index for t in said] != list(range(len(said))):
                        tally.lost.append(f"device {number}: {len(said)} tokens")
                    if time.monotonic() > end:
                        break
        except UhlmError as error:
            tally.lost.append(f"device {number}: {type(error).__name__}: {error}")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--faults", type=float, default=0.02, help="share of the calls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=18787)
    parser.add_argument("--out", type=Path, help="samples, as lines of JSON")
    args = parser.parse_args()
    rng, tally = random.Random(args.seed), Tally()
    kinds = [kind for kind in KINDS if kind not in FOR_GOOD]

    def fault(_: int) -> str | None:
        kind = rng.choice(kinds) if rng.random() < args.faults else None
        if kind:
            tally.faults[kind] += 1
        return kind

    verifier = Verifier(args.port, args.devices)
    begun = time.monotonic()
    end = begun + 60.0 * args.minutes
    with tempfile.TemporaryDirectory() as home, FaultyProxy(args.port, fault) as proxy:
        threads = [
            threading.Thread(target=device, args=(proxy.url, home, n, args.seed, end, tally))
            for n in range(args.devices)
        ]
        for thread in threads:
            thread.start()
        try:
            kill_at = begun + rng.uniform(60, 180)
            while time.monotonic() < end:
                time.sleep(2.0)
                now, pid = time.monotonic(), verifier.process.pid
                if kill_at < now < begun + RESTARTS * (end - begun):
                    verifier.trouble(rng.random() < 0.5, tally)
                    kill_at = now + rng.uniform(60, 180)
                    continue
                for process, which in (("device", os.getpid()), ("verifier", pid)):
                    tally.samples.append(look(process, which, now - begun))
            for thread in threads:
                thread.join(120)
            remembered = verifier.remembers()
        finally:
            verifier.kill()
    running = sum(thread.is_alive() for thread in threads)
    print(
        f"{args.devices} devices, {args.minutes:g} minutes: {tally.started} replies begun, "
        f"{tally.ended} ended, {len(tally.lost) + tally.missing} lost; {tally.tokens} tokens, "
        f"{tally.unverified} of them unverified; {tally.faults.total()} faults of "
        f"{len(tally.faults)} kinds, {tally.restarts} restarts and {tally.stops} stops "
        f"of the verifier, which remembers {remembered} at the end\n\n"
        "| process | MB at first | MB at last | MB an hour, 95 % | files at first | files at last |"
        "\n|---|---|---|---|---|---|"
    )
    grows = False
    for process, pid in (("device", os.getpid()), ("verifier", verifier.process.pid)):
        seen = [s for s in tally.samples if s.process == process and s.pid == pid]
        warm = seen[len(seen) // 2 :]
        rate, within = slope(warm)
        grows |= rate > within
        print(
            f"| {process} | {warm[0].memory:.1f} | {warm[-1].memory:.1f} | {rate:+.2f} "
            f"± {within:.2f} | {warm[0].files} | {warm[-1].files} |"
        )
    for line in tally.lost:
        print(line)
    if args.out:
        args.out.write_text("".join(json.dumps(asdict(s)) + "\n" for s in tally.samples))
    return int(bool(tally.lost) or tally.missing > 0 or running > 0 or grows)


if __name__ == "__main__":
    sys.exit(main())
