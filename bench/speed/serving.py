"""What `serve` adds to a token over `run`: the same replies both ways, in turn, in the same run.

`run` is a conversation of this process, written token by token into a pipe that another process
reads. `serve` is the command in a process of its own, read over a socket: as a stream, event by
event, and whole. What reads the text is counted on neither side.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from ...common.errors import UhlmError
from ...common.prompts import Case
from ...configs.config import Config
from ...configs.layers import as_environment, changed
from ...edge.chat.adjust import PIPELINED
from ...edge.chat.assemble import assemble
from ...edge.chat.assistant import Assistant
from ...edge.chat.demo import DemoVerifier
from ...edge.chat.show import show
from ...lm.draws import turn_seed

COLUMNS = (
    "strategy", "way", "wall_us", "wall_over_run", "wall_q1", "wall_q3",
    "cpu_us", "cpu_over_run", "cpu_q1", "cpu_q3", "first_ms", "tokens", "load",
)  # fmt: skip
LONGEST = 64
WAYS = ("run", "stream", "whole")

_SECTIONS = ("device", "sampler", "strategy", "cloud", "budget", "verifier", "chat")


@dataclass(frozen=True)
class Took:
    """One reply: seconds of all of it, to its first token (0: not known), of processors; tokens.

    What is done once for a reply, reading the request and the prompt, is part of it.
    """

    whole: float
    first: float
    cpu: float
    tokens: int


Times = dict[str, list[Took]]
"""Of each way, reply by reply, in the same order."""


def time_serving(
    config: Config, cases: Sequence[Case], strategies: Sequence[str], rounds: int
) -> Iterator[tuple[str, Times]]:
    """Answer each row each way, with each strategy; yields what a strategy took.

    Raises:
        UhlmError: a model or a verifier cannot be had, or the server does not answer.
    """
    for name in strategies:
        given: dict[tuple[str, ...], Any] = {("strategy", "name"): name}
        if name == "local":
            given["cloud", "demo"] = False
        options = changed(config, given)
        own = options.cloud.demo and not options.cloud.url and not options.cloud.offline
        settings = as_environment(options, "verifier")
        with DemoVerifier(settings=settings) if own else nullcontext() as verifier:
            environment = dict(os.environ)
            if verifier is not None:
                options = changed(options, {("cloud", "url"): verifier.url})
                environment["UHLM_API_KEY"] = verifier.key
            yield name, _both(options, cases, rounds, environment)


def _both(
    config: Config, cases: Sequence[Case], rounds: int, environment: Mapping[str, str]
) -> Times:
    times: Times = {way: [] for way in WAYS}
    with (
        assemble(config, lambda _: None, environment=environment) as assistant,
        _server(config, environment) as server,
        _reader() as out,
    ):
        for turn in range(-1, rounds * len(cases)):  # the first turn warms up
            case = cases[turn % len(cases)]
            seed = turn_seed(1, max(0, turn))
            found = {
                "run": _run(assistant, config, out, case, seed),
                "stream": server.ask(case, seed, stream=True),
                "whole": server.ask(case, seed, stream=False),
            }
            if turn >= 0:
                for way, took in found.items():
                    times[way].append(took)
    return times


def _run(assistant: Assistant, config: Config, out: IO[str], case: Case, seed: int) -> Took:
    """The reply as `run` writes it."""
    options = config.chat
    assistant.set_options(options.system, LONGEST, PIPELINED[config.strategy.pipelined], seed)
    assistant.restart(0)
    used, begun = time.process_time(), time.perf_counter()
    with redirect_stdout(out):
        shown = show(assistant, config, assistant.answer(case.messages))
    whole = time.perf_counter() - begun
    first = shown.tokens[0].time + (whole - assistant.loop.text.elapsed if assistant.loop else 0.0)
    return Took(whole, first, time.process_time() - used, len(shown.tokens))


@contextmanager
def _reader() -> Iterator[IO[str]]:
    """A pipe, and a process that reads it."""
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(["cat"], stdin=pipe, stdout=nothing, text=True) as process:  # noqa: S607
        assert process.stdin is not None  # noqa: S101 - it was asked for
        yield process.stdin


class _Server:
    """`uhlm-edge serve` as a process."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection = connection  # kept, as clients do
        self._clock = processor_clock(pid)

    def ask(self, case: Case, seed: int, stream: bool) -> Took:
        """A reply, as a stream or whole."""
        asked = {
            "messages": list(case.messages), "max_tokens": LONGEST, "seed": seed, "stream": stream,
        }  # fmt: skip
        body = json.dumps(asked).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        used, begun = self._clock(), time.perf_counter()
        got, first = bytearray(), 0.0
        self._connection.sendall(head.encode() + body)
        while not _is_whole(got):
            if not (part := self._connection.recv(1 << 16)):
                raise UhlmError("the server hung up")
            got += part
            if stream and not first and b'"uhlm":{"tokens"' in got:
                first = time.perf_counter() - begun
        whole = time.perf_counter() - begun
        if not got.startswith(b"HTTP/1.1 200"):
            raise UhlmError(f"the server refused: {got[-300:].decode(errors='replace')}")
        return Took(whole, first, self._clock() - used, got.count(b'"provenance":'))


def processor_clock(pid: int) -> Callable[[], float]:
    """Seconds that processors have worked for a process: on Linux exact, elsewhere in steps."""
    if platform.system() == "Linux":
        clock = (~pid << 3) | 2  # clock_getcpuclockid(3) of it, which Python does not have
        return lambda: time.clock_gettime(clock)
    process = psutil.Process(pid)
    return lambda: sum(process.cpu_times()[:2])


def _is_whole(got: bytearray) -> bool:
    """Is that an answer to its end? Of a stream, the chunk of length 0 ends it."""
    head = got.find(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", got[: max(0, head)])
    return len(got) - head - 4 >= int(length[1]) if length else got.endswith(b"\r\n0\r\n\r\n")


@contextmanager
def _server(config: Config, environment: Mapping[str, str]) -> Iterator[_Server]:
    settings = {k: v for s in _SECTIONS for k, v in as_environment(config, s).items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "uhlm_edge.cli", "serve", "--port", "0"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**environment, **settings, "UHLM_SERVE_KEY": ""},
    )  # fmt: skip
    assert process.stderr is not None  # noqa: S101 - it was asked for
    try:
        said = [""]
        while "http://" not in said[-1] or " at " not in said[-1]:
            if not (line := process.stderr.readline()):
                raise UhlmError(f"`uhlm-edge serve` ended: {' '.join(said).strip()}")
            said.append(line)
        where = urlsplit("http://" + said[-1].split("http://")[1].split(",")[0].strip())
        address = (where.hostname or "", where.port or 0)
        with socket.create_connection(address, timeout=60) as connection:
            yield _Server(connection, process.pid)
    finally:
        process.terminate()
        process.communicate()


def serving_rows(strategy: str, times: Times) -> list[dict[str, Any]]:
    """A row for each way of one strategy.

    Medians over replies of what a token takes, with all that is done once for its reply.
    `over_run` is how much more that is than what `run` takes for the same reply, with quartiles:
    on a busy machine, these part.
    """
    rows = []
    for way, took in times.items():
        row: dict[str, Any] = {"strategy": strategy, "way": way}
        for name, of in _CLOCKS.items():
            row[f"{name}_us"] = 1e6 * float(np.median([of(t) / t.tokens for t in took]))
            pairs = zip(took, times["run"], strict=True)
            more = [of(t) / t.tokens / (of(r) / r.tokens) - 1.0 for t, r in pairs]
            low, middle, high = (float(x) for x in np.percentile(more, (25, 50, 75)))
            shown = (None, None, None) if way == "run" else (middle, low, high)
            row |= zip((f"{name}_over_run", f"{name}_q1", f"{name}_q3"), shown, strict=True)
        firsts = [t.first for t in took if t.first]
        row["first_ms"] = 1e3 * float(np.median(firsts)) if firsts else None
        row["tokens"] = sum(t.tokens for t in took)
        row["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        rows.append(row)
    return rows


_CLOCKS: Mapping[str, Callable[[Took], float]] = {
    "wall": lambda took: took.whole,
    "cpu": lambda took: took.cpu,
}
