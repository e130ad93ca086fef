"""Two network namespaces joined by a link: one for the device, one for the verifier."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from ...common.errors import ResourceError
from .link_spec import LinkSpec

# Addresses for documentation (RFC 5737): they exist only inside the two namespaces.
DEVICE, CLOUD = "192.0.2.1", "192.0.2.2"
_PREFIX = "uhlm-bench"
_counter = itertools.count()


@dataclass(frozen=True)
class Namespaces:
    """Names of the two namespaces."""

    device: str
    cloud: str

    def in_device(self, command: list[str]) -> list[str]:
        """The command line that runs `command` on the device's side."""
        return [_ip(), "netns", "exec", self.device, *command]

    def in_cloud(self, command: list[str]) -> list[str]:
        """The command line that runs `command` on the verifier's side."""
        return [_ip(), "netns", "exec", self.cloud, *command]


@contextlib.contextmanager
def netem_link(spec: LinkSpec) -> Iterator[Namespaces]:
    """Namespaces joined by a veth pair under `tc netem`.

    Raises:
        ResourceError: not root, no iproute2, or a kernel without one of the parts.
    """
    tc = shutil.which("tc")
    if tc is None:
        raise ResourceError("tc is not installed (package iproute2)")
    with _namespaces() as names, contextlib.ExitStack():
        _run([_ip(), "link", "add", "veth0", "netns", names.device, "type", "veth",
              "peer", "name", "veth0", "netns", names.cloud])  # fmt: skip
        for side, address, up in ((names.device, DEVICE, True), (names.cloud, CLOUD, False)):
            _bring_up(side, "veth0", address)
            qdisc = ["qdisc", "add", "dev", "veth0", "root", "netem", *spec.netem(up)]
            _run([_ip(), "netns", "exec", side, tc, *qdisc])
        yield names


@contextlib.contextmanager
def _namespaces() -> Iterator[Namespaces]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise ResourceError("network namespaces need root")
    _remove_stale()
    stem = f"{_PREFIX}-{os.getpid()}-{next(_counter)}"
    names = Namespaces(f"{stem}-device", f"{stem}-cloud")
    with contextlib.ExitStack() as stack:
        for name in (names.device, names.cloud):
            _run([_ip(), "netns", "add", name])
            stack.callback(_remove, name)
            _run([_ip(), "-n", name, "link", "set", "lo", "up"])
        yield names


def _bring_up(side: str, name: str, address: str) -> None:
    other = CLOUD if address == DEVICE else DEVICE
    _run([_ip(), "-n", side, "addr", "add", address, "peer", other, "dev", name])
    _run([_ip(), "-n", side, "link", "set", name, "up"])


def _remove(name: str) -> None:
    with contextlib.suppress(ResourceError):
        _run([_ip(), "netns", "del", name])


def _remove_stale() -> None:
    """Remove what a killed run left behind; nothing else is touched."""
    for line in _run([_ip(), "netns", "list"]).splitlines():
        match = re.match(rf"({_PREFIX}-(\d+)-\d+-(?:device|cloud))\b", line)
        if match is None:
            continue
        try:
            os.kill(int(match[2]), 0)
        except ProcessLookupError:
            _remove(match[1])
        except OSError:
            continue


def _ip() -> str:
    path = shutil.which("ip")
    if path is None:
        raise ResourceError("ip is not installed (package iproute2)")
    return path


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands, no shell
            command, capture_output=True, text=True, timeout=10.0, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ResourceError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise ResourceError(f"{' '.join(command[:6])} ...: {said[0]}")
    return done.stdout
