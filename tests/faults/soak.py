"""Hours of ordinary life in minutes: the demo pair, several devices, faults at random.

`python -m uhlm_edge.tests.faults.soak --minutes 30 [--devices 8] [--seed 1] [--out FILE]`

Devices chat with a verifier of their own through a proxy that misbehaves now and then; now and then
the verifier is killed and started again. Memory and open files of both sides are sampled; at the
end stands one line of JSON, and the exit code is 1 if a reply was lost or something grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from uhlm_edge.common.errors import UhlmError
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.events import Token
from uhlm_edge.edge.link.http import HttpLink

from .proxy import KINDS, FaultyProxy

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

    replies: int = 0
    tokens: int = 0
    unverified: int = 0
    restarts: int = 0
    lost: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, float, float, int, int]] = field(default_factory=list)


class Verifier:
    """`uhlm-edge cloud` on a port that stays the same."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "uhlm_edge.cli", "cloud", "--threads", "1", "--sessions"]
        self.process = subprocess.Popen(
            [*command, "32", "--port", str(self._port)], stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def resident(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024.0
    return float("nan")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def slope(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Least-squares slope in MB per hour and its standard error, of the second half."""
    half = np.array(samples[len(samples) // 2 :])
    hours = half[:, 0] / 3600.0
    if len(half) < 4:
        return float("nan"), float("nan")
    (a, b), cov = np.polyfit(hours, half[:, 1], 1, cov=True)
    del b
    return float(a), float(np.sqrt(cov[0, 0]))


def device(proxy: str, home: str, number: int, seed: int, end: float, tally: Tally) -> None:
    """Chat until the end; a reply must be at least one token, or end by itself."""
    rng = random.Random(seed * 100 + number)
    while time.monotonic() < end:
        flags: dict[tuple[str, ...], object] = {
            ("strategy", "name"): rng.choice(STRATEGIES),
            ("strategy", "threshold"): 0.3,
            ("chat", "max_tokens"): 40,
            ("cloud", "deadline"): 5.0,
        }
        config = load_config(flags, "demo", environment={"XDG_CONFIG_HOME": home}).config
        environment = {"XDG_CONFIG_HOME": home, "XDG_STATE_HOME": home, "XDG_CACHE_HOME": home}
        try:
            with assemble(config, lambda _: None, HttpLink(proxy), environment) as assistant:
                for _ in range(6):
                    said = [
                        event
                        for event in assistant.reply(rng.choice(QUESTIONS))
                        if isinstance(event, Token)
                    ]
                    assert assistant.loop is not None
                    tally.replies += 1
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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=18787)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng, tally = random.Random(args.seed), Tally()
    kinds = [kind for kind in KINDS if kind not in FOR_GOOD]

    def fault(_: int) -> str | None:
        kind = rng.choice(kinds) if rng.random() < 0.02 else None
        if kind:
            tally.faults[kind] += 1
        return kind

    verifier = Verifier(args.port)
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
                time.sleep(5.0)
                now, pid = time.monotonic(), verifier.process.pid
                if now > kill_at:
                    verifier.kill()
                    verifier.start()
                    tally.restarts += 1
                    kill_at = now + rng.uniform(60, 180)
                    continue
                tally.samples.append(
                    (now - begun, resident(os.getpid()), resident(pid), descriptors(os.getpid()),
                     descriptors(pid))
                )  # fmt: skip
            for thread in threads:
                thread.join(120)
        finally:
            verifier.kill()
    grows, spread = slope([(s[0], s[1]) for s in tally.samples])
    result = {
        "minutes": args.minutes, "devices": args.devices, "replies": tally.replies,
        "tokens": tally.tokens, "unverified": tally.unverified, "restarts": tally.restarts,
        "faults": sum(tally.faults.values()), "kinds": len(tally.faults), "lost": tally.lost,
        "device_mb_first_last": [tally.samples[0][1], tally.samples[-1][1]],
        "device_mb_per_hour": [round(grows, 2), round(spread, 2)],
        "verifier_mb_max": max(s[2] for s in tally.samples),
        "device_files_max": max(s[3] for s in tally.samples),
        "verifier_files_max": max(s[4] for s in tally.samples),
        "still_running": sum(thread.is_alive() for thread in threads),
    }  # fmt: skip
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps({**result, "samples": tally.samples}) + "\n")
    return int(bool(tally.lost) or result["still_running"] > 0)


if __name__ == "__main__":
    sys.exit(main())
