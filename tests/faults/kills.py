"""A verifier process that is killed and started again while devices write.

`python -m uhlm_edge.tests.faults.kills --kills 20 --replies 200`

The server is the real one in a process of its own, and SIGKILL ends it in the middle of a reply, at
its third call; the other devices are wherever they are. The models are those of `matrix.py`, whose
every row is known, so that each token of each reply is checked. A line of JSON tells the result.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.server import serve
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.link.http import HttpLink
from uhlm_edge.edge.link.session import Session
from uhlm_edge.wire.messages import Conflict, Reply

from ..edge.pairs import PLAIN
from ..fakes import FakeEngine
from .matrix import (
    FIRST,
    KEY,
    SLM,
    STRATEGIES,
    VOCAB,
    Seen,
    check,
    service_of_fakes,
    strategy,
    write,
)

__all__ = ["ASKING", "Result", "run"]

ASKING = tuple(name for name in STRATEGIES if name != "local")


@dataclass
class Result:
    """What happened.

    Attributes:
        replies: that ended, and with them those written to see whether all is well again.
        hit: of them, those with tokens that got no verdict.
        unverified: such tokens.
        recovered: strategies that were hit, and whose next reply had a verdict wherever wanted.
        wrong: what should not be; empty if all is well.
    """

    replies: int = 0
    kills: int = 0
    hit: int = 0
    tokens: int = 0
    unverified: int = 0
    recovered: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


class Process:
    """The verifier, always on the same port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.kills = 0
        self._lock = threading.RLock()
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "uhlm_edge.tests.faults.kills", "--serve", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._is_up = False

    def kill(self) -> None:
        """SIGKILL, and a new one at once."""
        with self._lock:  # one at a time: another device may want the same
            self.stop()
            self.kills += 1
            self._start()

    def stop(self) -> None:
        with self._lock:
            self._process.kill()
            self._process.communicate()

    def wait(self) -> None:
        """Until it listens."""
        with self._lock:
            if not self._is_up:
                assert self._process.stdout is not None
                assert self._process.stdout.readline()
                self._is_up = True


class _Killing(HttpLink):
    """A link whose verifier dies under the third call of a reply, when it is told so."""

    def __init__(self, url: str, process: Process) -> None:
        super().__init__(url, KEY)
        self._process = process
        self.calls_to_death = -1

    def verify(self, *args: object, **more: object) -> Reply | Conflict:
        if self.calls_to_death == 0:
            self._process.kill()
        self.calls_to_death -= 1
        return super().verify(*args, **more)  # type: ignore[arg-type]


def run(kills: int, replies: int, devices: int = 4) -> Result:
    """Let devices write `replies` replies, in which the verifier is killed `kills` times."""
    result, lock, numbers = Result(), threading.Lock(), itertools.count()
    process = Process()
    deadly = {i * replies // kills: ASKING[i % len(ASKING)] for i in range(kills)}

    def device() -> None:
        link = _Killing(f"http://127.0.0.1:{process.port}", process)
        session = Session(link, VOCAB, "slm", 30.0)
        slm = Device(TokenCache(FakeEngine(SLM, 256)), PLAIN)

        def reply(number: int, name: str, kills: int = -1) -> bool:
            """One reply, checked; true if the verifier was away in it.

            With `kills`, it was there when there had been so many, and may be away only if there
            were more since.
            """
            pipelined, prompt = bool(number // len(STRATEGIES) % 2), [1, 2, 3, number % 9]
            loop, events = write(slm, session, strategy(name), prompt, pipelined)  # type: ignore[arg-type]
            seen = Seen("killed", name, pipelined, hit=loop.stats.offline_reason is not None)
            check(seen, (loop, events), prompt)
            away = loop.stats.unverified > 0
            with lock:
                result.replies += 1
                result.hit += away
                result.tokens += len(loop.tokens)
                result.unverified += loop.stats.unverified
                result.wrong += [f"reply {number}, {name}: {what}" for what in seen.wrong]
                if away and kills == process.kills:
                    result.wrong.append(f"{name} is not hybrid again")
            return away

        try:
            while (number := next(numbers)) < replies:
                name = deadly.get(number, STRATEGIES[number % len(STRATEGIES)])
                link.calls_to_death = FIRST if number in deadly else -1
                away = reply(number, name)
                while link.calls_to_death >= 0:  # it asked less often than that
                    away = reply(number := number + 1, name)
                while away:
                    kills = process.kills  # another one may come before the next reply has ended
                    process.wait()
                    while not session.ready:
                        time.sleep(0.01)
                    away = reply(number, name, kills)
                    if not away:
                        with lock:
                            result.recovered.add(name)
        except BaseException as error:  # a reply that did not end
            result.wrong.append(f"{type(error).__name__}: {error}")
            raise
        finally:
            session.close()

    try:
        process.wait()
        threads = [threading.Thread(target=device) for _ in range(devices)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        process.stop()
    result.kills = process.kills
    return result


def _serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("up", flush=True)
        serve(service_of_fakes(), VerifierOptions(), listener)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--replies", type=int, default=200)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        _serve(args.serve)
        return 0
    result = run(args.kills, args.replies, args.devices)
    print(json.dumps({**vars(result), "recovered": sorted(result.recovered)}))
    return int(bool(result.wrong) or len(result.recovered) < min(args.kills, len(ASKING)))


if __name__ == "__main__":
    sys.exit(main())
