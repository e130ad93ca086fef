"""The shipped pair end to end: real models, a real `uhlm-edge cloud`, every strategy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uhlm_edge.configs.config import StrategyName
from uhlm_edge.edge.policy.strategy import STRATEGIES

from .commands import COMMAND, RunningVerifier, environment, run_here, verifier

pytestmark = pytest.mark.slow

QUESTION = b"What is the capital of Peru?"
ANSWERING = [name for name in STRATEGIES if name not in ("local", "handoff")]
ENSEMBLES = [["--ensemble", "weighted", "--weight", "0.3"], ["--ensemble", "contrastive"]]
ANSWER = "The capital of Peru is Lima.\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[RunningVerifier]:
    with verifier(home) as process:
        yield process


def reply(
    running: RunningVerifier, home: Path, text: bytes, *flags: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The tokens of a reply and its statistics."""
    result = run_here(["run", "-", "--cloud", running.url, "--json", *flags], home, text)
    assert (result.code, result.err) == (0, "")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert lines[-1]["event"] == "done"
    return [line for line in lines if line["event"] == "token"], lines[-1]["stats"]


def test_the_first_example_of_the_readme(home: Path) -> None:
    """The demo starts a verifier of its own, and leaves none behind."""
    result = run_here(["run", "-", "--seed", "1"], home, QUESTION)
    assert (result.code, result.out, result.err) == (0, ANSWER, "")


def test_local_asks_nobody(running: RunningVerifier, home: Path) -> None:
    asked = ["run", "-", "--strategy", "local", "--seed", "1"]
    assert run_here(asked, home, QUESTION).out == ANSWER
    result = run_here([*asked, "--cloud", running.url, "--require-cloud"], home, QUESTION)
    assert (result.code, result.out) == (4, "")


@pytest.mark.parametrize("name", ANSWERING)
def test_every_strategy_answers(name: StrategyName, running: RunningVerifier, home: Path) -> None:
    flags = ["--strategy", name, "--seed", "1", "--require-cloud"]
    result = run_here(["run", "-", "--cloud", running.url, *flags], home, QUESTION)
    assert (result.code, result.out, result.err) == (0, ANSWER, "")


@pytest.mark.parametrize("flags", ENSEMBLES, ids=" ".join)
def test_every_ensemble_answers(flags: list[str], running: RunningVerifier, home: Path) -> None:
    asked = ["run", "-", "--cloud", running.url, "--strategy", "ensemble", "--seed", "1"]
    result = run_here([*asked, *flags], home, QUESTION)
    assert (result.code, result.out, result.err) == (0, ANSWER, "")


@pytest.mark.parametrize("name", ["local", *ANSWERING])
def test_the_statistics_fit_the_strategy(
    name: StrategyName, running: RunningVerifier, home: Path
) -> None:
    asked = b"I would like to book a table for two in Albany tonight."
    tokens, stats = reply(running, home, asked, "--strategy", name, "--seed", "4")
    assert stats["tokens"] == len(tokens) > 1
    assert stats["strategy"] == name
    assert stats["offline_reason"] is None
    judged = [token for token in tokens if token["accepted"] is not None]
    supplied = [token for token in tokens if token["source"] == "cloud"]
    if name == "local":
        assert not judged
        assert stats["calls"] == stats["uplink_bytes"] == stats["transmission_rate"] == 0
    if name in ("hlm", "spec"):
        assert len(judged) == len(tokens)
        assert stats["transmission_rate"] == 1
    if name == "cloud":
        assert len(supplied) == len(tokens)
        assert stats["transmission_rate"] == 1
    if name == "hlm":
        assert stats["uploads"] == len(tokens)
        assert stats["uplink_bytes"] / stats["uploads"] < 200


def test_the_seed_fixes_the_text_whatever_the_timing(running: RunningVerifier, home: Path) -> None:
    asked = b"Tell me about your day."
    flags = ["--strategy", "uhlm", "--threshold", "0.3", "--temperature", "1", "--seed", "11"]
    texts = [
        [token["id"] for token in reply(running, home, asked, *flags, *more)[0]]
        for more in ([], ["--pipelined"], ["--no-pipelined"])
    ]
    assert texts[0] == texts[1] == texts[2]


def test_uhlm_at_its_extremes_is_local_and_hlm(running: RunningVerifier, home: Path) -> None:
    asked = b"What is 17 plus 25?"
    flags = ["--temperature", "1", "--seed", "5"]

    def ids(*more: str) -> list[int]:
        return [token["id"] for token in reply(running, home, asked, *flags, *more)[0]]

    assert ids("--strategy", "uhlm", "--threshold", "1") == ids("--strategy", "local")
    assert ids("--strategy", "uhlm", "--threshold", "-1") == ids("--strategy", "hlm")


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(done.returncode, peak if sys.platform == "darwin" else peak * 1024)
"""


def test_offline_the_device_needs_at_most_110_mb(home: Path) -> None:
    command = [*COMMAND, "run", QUESTION.decode(), "--offline"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        capture_output=True,
        env=environment(home),
        check=True,
        text=True,
        timeout=60,
    )
    code, peak = map(int, done.stdout.split())
    assert code == 0
    assert 30e6 < peak <= 110e6, f"{peak / 1e6:.1f} MB"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_the_demo_leaves_no_process_behind(home: Path) -> None:
    """However it ends: here it is killed, and its verifier notices."""
    with subprocess.Popen(
        [*COMMAND, "chat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(QUESTION + b"\n")
        process.stdin.flush()
        assert process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.kill()
    # The verifier holds our end of stderr open until it is gone.
    waiter = os.pidfd_open(int(children[0])) if hasattr(os, "pidfd_open") else None
    if waiter is not None:
        import select

        assert select.select([waiter], [], [], 30)[0]
        os.close(waiter)
