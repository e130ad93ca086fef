"""What `serve` adds to a token over `run`: the same replies both ways, in turn, in the same run.

`run` is a conversation of this process, printed into nothing. `serve` is the command in a process
of its own, read over a socket: as a stream, event by event, and whole.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
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

__all__ = ["COLUMNS", "Took", "serving_rows", "time_serving"]

COLUMNS = (
    "strategy", "way", "p10_us", "p50_us", "p10_over_run", "p50_over_run", "cpu_us", "cpu_over_run",
    "first_ms", "tokens",
)  # fmt: skip
SHARES = (10, 50)
LONGEST = 64
WAYS = ("run", "stream", "whole")

_SECTIONS = ("device", "sampler", "strategy", "cloud", "budget", "verifier", "chat")


@dataclass(frozen=True)
class Took:
    """One reply: seconds of all of it, to its first token (0: not known), of processors; tokens."""

    whole: float
    first: float
    cpu: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Seconds for a token after the first; where that is not known, for any."""
        if self.first and self.tokens > 1:
            return (self.whole - self.first) / (self.tokens - 1)
        return self.whole / self.tokens


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
    ):
        for turn in range(-1, rounds * len(cases)):  # the first turn warms up
            case = cases[turn % len(cases)]
            seed = turn_seed(1, max(0, turn))
            found = {
                "run": _run(assistant, config, case, seed),
                "stream": server.ask(case, seed, stream=True),
                "whole": server.ask(case, seed, stream=False),
            }
            if turn >= 0:
                for way, took in found.items():
                    times[way].append(took)
    return times


def _run(assistant: Assistant, config: Config, case: Case, seed: int) -> Took:
    """The reply as `run` writes it."""
    options = config.chat
    assistant.set_options(options.system, LONGEST, PIPELINED[config.strategy.pipelined], seed)
    assistant.restart(0)
    used, begun = time.process_time(), time.perf_counter()
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
        shown = show(assistant, config, assistant.answer(case.messages))
    whole = time.perf_counter() - begun
    first = shown.tokens[0].time + (whole - assistant.loop.text.elapsed if assistant.loop else 0.0)
    return Took(whole, first, time.process_time() - used, len(shown.tokens))


class _Server:
    """`uhlm-edge serve` as a process."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection = connection  # kept, as clients do
        self._process = psutil.Process(pid)

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
        used, begun = self._cpu(), time.perf_counter()
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
        return Took(whole, first, self._cpu() - used, got.count(b'"provenance":'))

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _is_whole(got: bytearray) -> bool:
    """Is that an answer to its end? Of a stream, the chunk of length 0 ends it."""
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return len(body) >= int(length[1]) if length else body.endswith(b"\r\n0\r\n\r\n")


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

    Percentiles are over replies, and `over_run` says how much more they are than those of `run`.
    On a busy machine the low ones are replies that few others interrupted. The processors' time is
    that of all replies together, because systems count it in steps of 10 ms.
    """
    rows = []
    for way, took in times.items():
        against = times["run"]
        tokens = sum(t.tokens for t in took)
        mine = [t.per_token for t in took]
        its = [r.whole / r.tokens if way == "whole" else r.per_token for r in against]
        cpu = sum(t.cpu for t in took) / tokens
        run_cpu = sum(t.cpu for t in against) / sum(t.tokens for t in against)
        firsts = [t.first for t in took if t.first]
        own = way == "run"
        rows.append(
            {
                "strategy": strategy,
                "way": way,
                **{f"p{p}_us": 1e6 * float(np.percentile(mine, p)) for p in SHARES},
                **{f"p{p}_over_run": None if own else _more(mine, its, p) for p in SHARES},
                "cpu_us": 1e6 * cpu,
                "cpu_over_run": None if own else cpu / run_cpu - 1.0,
                "first_ms": 1e3 * float(np.median(firsts)) if firsts else None,
                "tokens": tokens,
            }
        )
    return rows


def _more(mine: Sequence[float], its: Sequence[float], share: int) -> float:
    return float(np.percentile(mine, share) / np.percentile(its, share)) - 1.0
