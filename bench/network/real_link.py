"""A real slow link to a verifier: network namespaces where the machine has them, else a proxy.

    with slow_link(LinkSpec(delay_ms=25, up_bps=1e6), ["server", "--host", "{host}", ...]) as link:
        link.run(["client", "--url", f"http://{link.host}:{link.port}"])
        print(link.how)

Only loopback and namespaces made here are touched, and both are gone when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from ...common.errors import ResourceError
from .link_spec import LinkSpec
from .namespaces import CLOUD, Namespaces, netem_link
from .proxy import delaying_proxy

How = Literal["netem", "proxy"]
HOWS: dict[How, str] = {
    "netem": "network namespaces, tc netem",
    "proxy": "a delaying TCP proxy on loopback (no packet loss, no TCP slow start)",
}


@dataclass(frozen=True)
class SlowLink:
    """A link that is up, with a server behind it."""

    spec: LinkSpec
    kind: How
    host: str
    port: int
    passed_over: dict[str, str] = field(default_factory=dict)
    """Why better kinds of link were not used."""
    namespaces: Namespaces | None = None

    @property
    def how(self) -> str:
        """What was used, in words, with what it left out."""
        ignored = self.kind == "proxy" and self.spec.loss > 0
        return HOWS[self.kind] + ("; the loss asked for was not applied" if ignored else "")

    def wrap(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on the device's side of the link."""
        return list(command) if self.namespaces is None else self.namespaces.in_device([*command])

    def run(
        self, command: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a client on the device's side, for at most `timeout_s` seconds.

        Raises:
            ResourceError: it took longer, or could not be started.
        """
        try:
            return subprocess.run(  # noqa: S603 - the caller's own command, no shell
                self.wrap(command), capture_output=True, text=True, timeout=timeout_s, env=env,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ResourceError(f"the client on the slow link failed: {error}") from error


@contextlib.contextmanager
def slow_link(
    spec: LinkSpec,
    server: Sequence[str],
    *,
    kinds: Sequence[How] = ("netem", "proxy"),
    start_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    loopback: bool = False,
) -> Iterator[SlowLink]:
    """Start `server` behind a slow link, of the first of `kinds` that this machine allows.

    "{host}" and "{port}" in the server's words are replaced by where it is to listen. With
    `loopback`, server and client both see 127.0.0.1, and forwarders at the ends of the link carry
    their connections over it (they open one over the link for each that they take).

    Raises:
        ResourceError: no link of these kinds can be made, or the server does not listen within
            `start_s` seconds.
    """
    passed_over: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        names: Namespaces | None = None
        for kind in kinds:
            if kind == "proxy":
                break
            try:
                names = stack.enter_context(netem_link(spec))
                break
            except ResourceError as error:
                passed_over[kind] = str(error)
        else:
            reasons = "; ".join(f"{name}: {why}" for name, why in passed_over.items())
            raise ResourceError(f"no slow link can be made here ({reasons})")
        far = names is not None and not loopback
        host = CLOUD if far else "127.0.0.1"
        port = 8080 if names is not None else _free_port()
        words = [word.replace("{host}", host).replace("{port}", str(port)) for word in server]
        command = words if names is None else names.in_cloud(words)
        _await(*stack.enter_context(_server(command, env)), port, start_s)
        if names is None:
            port = stack.enter_context(delaying_proxy(spec, port))
        elif loopback:
            for run, ends in (
                (names.in_cloud, (CLOUD, "8081", "127.0.0.1", str(port))),
                (names.in_device, ("127.0.0.1", "8081", CLOUD, "8081")),
            ):
                forward = [sys.executable, "-m", "uhlm_edge.bench.network.forward", *ends]
                _await(*stack.enter_context(_server(run(forward), env)), 8081, start_s)
            port = 8081
        yield SlowLink(spec, kind, host, port, passed_over, names)


@contextlib.contextmanager
def _server(
    command: list[str], env: Mapping[str, str] | None
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process in a group of its own, ended with the block."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(  # noqa: S603 - the caller's own command, no shell
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=env,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ResourceError(f"the server cannot be started: {error}") from error
        try:
            yield process, log
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5.0)
                    break


def _await(process: subprocess.Popen[bytes], log: IO[bytes], port: int, start_s: float) -> None:
    """Wait until something listens on `port` in the namespace of `process`."""
    end = time.monotonic() + start_s
    while time.monotonic() < end:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode("utf-8", "replace").strip().splitlines()
            raise ResourceError(f"the server ended: {said[-1] if said else process.returncode}")
        if _listens(process.pid, port):
            return
        time.sleep(0.02)
    raise ResourceError(f"the server did not listen within {start_s:g} s")


def _listens(pid: int, port: int) -> bool:
    """By the kernel's table of the process's namespace, so that nothing crosses the link."""
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        if any(row[1].endswith(wanted) and row[3] == "0A" for row in map(str.split, lines)):
            return True
    if os.path.exists(f"/proc/{pid}/net/tcp"):
        return False
    with socket.socket() as probe:  # no such table on this system
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
