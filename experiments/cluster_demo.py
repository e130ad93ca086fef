"""Two replicas of the verifier on this machine, devices that talk to them, and one that is killed.

    make cluster-demo

Each device is a real one: `uhlm-edge run` in a process of its own, reply after reply. In the middle
a replica is killed. The demo fails if a reply does not end, or if the last round is not verified.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPTS = (
    "Tell me the capital of Bhutan.",
    "Please look for a one way flight from Washington to San Diego on next Friday.",
    "Can you help me to plan a weekend by the sea?",
)
DEVICES = 3
REPLY_SECONDS = 120
ROUNDS = ("before", "replica killed", "after")


@dataclass
class Said:
    """One reply as its device told it."""

    device: int
    round: str
    code: int | None = None
    tokens: int = 0
    verified: int = 0
    done: dict[str, Any] = field(default_factory=dict)
    complaints: str = ""


def main() -> int:
    """Run it; 0 if every reply ended and devices were verified again afterwards."""
    os.environ["UHLM_API_KEY"] = secrets.token_hex(16)
    os.environ["RAY_AUTH_MODE"] = "token"  # other users of this machine share its loopback
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray  # reads the token
    from ray import serve

    from ..cloud.options import VerifierOptions
    from ..cloud.ray.application import ClusterOptions, app
    from ..lm.engines.options import EngineOptions

    begun = time.monotonic()
    port, *others = _free_ports(6)
    with _node(others) as address:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        engine = EngineOptions(n_threads=1, n_threads_batch=1)
        options = ClusterOptions(
            verifier=VerifierOptions(engine=engine), replicas=2, most_replicas=2, cpus=0.5
        )
        try:
            serve.run(app(options), name="uhlm-edge")
            print(f"two replicas after {time.monotonic() - begun:.1f} s: {_replicas()}", flush=True)
            return _play(f"http://127.0.0.1:{port}")
        finally:
            serve.shutdown()
            ray.shutdown()


@contextmanager
def _node(ports: Sequence[int]) -> Iterator[str]:
    """A Ray node of our own, for as long as the context lasts.

    With ports given, a raylet need not wait for its helpers to find theirs, for which it has 15 s:
    too little on a busy machine.
    """
    names = ("port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port")
    flags = zip((*names, "runtime-env-agent-port", "metrics-export-port"), ports, strict=True)
    ray = Path(sys.executable).with_name("ray")
    words = [str(ray), "start", "--head", "--block", "--num-cpus=4", "--include-dashboard=false"]
    words += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    with subprocess.Popen(  # noqa: S603 - the program that was installed with us
        [*words, *(f"--{name}={port}" for name, port in flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as node:
        assert node.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            said = []
            for line in node.stdout:
                said.append(line)
                if "--block" in line:
                    break
            else:
                raise SystemExit("".join(said))
            yield f"127.0.0.1:{ports[0]}"
        finally:
            node.terminate()
            node.wait()


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _play(url: str) -> int:
    replies: list[Said] = []
    for name in ROUNDS:
        on_token = _killer() if name == ROUNDS[1] else None
        found = [Said(i, name) for i in range(DEVICES)]
        threads = [threading.Thread(target=_reply, args=(url, said, on_token)) for said in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        replies += found
        if name == ROUNDS[1]:
            _wait_for(2)
            print(f"two replicas again: {_replicas()}")
    print(f"{'round':15} device exit tokens verified  what the device said")
    for said in replies:
        said_offline = said.done.get("stats", {}).get("offline_reason") or "-"
        print(
            f"{said.round:15} {said.device:6} {said.code!s:>4} {said.tokens:6} {said.verified:8}  "
            f"{said_offline}"
        )
    ended = all(said.code == 0 and said.done and said.tokens for said in replies)
    again = all(s.verified == s.tokens for s in replies if s.round == ROUNDS[2])
    print("every reply ended" if ended else "A REPLY DID NOT END")
    print("all of the last round is verified" if again else "THE LAST ROUND IS NOT VERIFIED")
    for said in replies:
        if said.code != 0:
            print(said.complaints, file=sys.stderr)
    return 0 if ended and again else 1


def _reply(url: str, said: Said, on_token: Callable[[], None] | None) -> None:
    """One `uhlm-edge run` with every token uploaded."""
    words = [sys.executable, "-m", "uhlm_edge.cli", "run", PROMPTS[said.device % len(PROMPTS)]]
    flags = ["--cloud", url, "--strategy", "hlm", "--json", "--seed", str(said.device)]
    with subprocess.Popen(  # noqa: S603 - our own command
        [*words, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
        timer = threading.Timer(REPLY_SECONDS, process.kill)  # a reply that hangs has not ended
        timer.start()
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "token":
                said.tokens += 1
                said.verified += event["accepted"] is not None or event["source"] == "cloud"
                if on_token is not None:
                    on_token()
            elif event["event"] == "done":
                said.done = event
        said.complaints = process.stderr.read()
        said.code = process.wait()
        timer.cancel()


def _killer() -> Callable[[], None]:
    """Kills one replica at the tenth token that any device writes."""
    lock, seen = threading.Lock(), [0]

    def on_token() -> None:
        with lock:
            seen[0] += 1
            if seen[0] == 10:
                victim = _replicas()[0]
                os.kill(victim, signal.SIGKILL)
                print(f"killed replica {victim}")

    return on_token


def _replicas() -> list[int]:
    """Process ids of the replicas that this process's cluster runs."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [process.info["name"] or ""])
        if title.startswith("ray::ServeReplica:uhlm-edge") and _is_ours(process):
            found.append(process.info["pid"])
    return sorted(found)


def _is_ours(process: Any) -> bool:
    import psutil

    try:
        return os.getpid() in [parent.pid for parent in process.parents()]
    except psutil.Error:
        return False


def _wait_for(n: int, seconds: float = 90.0) -> None:
    from ray import serve

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = serve.status().applications["uhlm-edge"]
        if len(_replicas()) == n and status.status == "RUNNING":
            return
        time.sleep(0.5)
    raise SystemExit(f"there are not {n} replicas after {seconds:g} s")


if __name__ == "__main__":
    sys.exit(main())
