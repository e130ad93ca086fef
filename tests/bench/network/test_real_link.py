"""Slow links, real ones: a server and a client that time each other through each kind."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from uhlm_edge.bench.network import namespaces
from uhlm_edge.bench.network import real_link as netlink
from uhlm_edge.bench.network.link_spec import Lane, LinkSpec
from uhlm_edge.bench.network.real_link import How, slow_link
from uhlm_edge.common.errors import ResourceError, UsageError

# Answers "N\n" with N bytes, as often as it is asked.
SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection, _ = listener.accept()
    lines = connection.makefile("rb")
    for line in lines:
        connection.sendall(b"x" * int(line))
    connection.close()
"""
CLIENT = """
import json, socket, sys, time
start = time.monotonic()
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def ask(n):
    start = time.monotonic()
    connection.sendall(b"%d\\n" % n)
    left = n
    while left:
        left -= len(connection.recv(min(left, 65536)))
    return time.monotonic() - start
ask(1)
first = time.monotonic() - start
small = min(ask(1) for _ in range(5))
print(json.dumps({"first": first, "small": small, "large": ask(int(sys.argv[3]))}))
"""


def test_bytes_queue_for_the_line_and_then_take_the_delay() -> None:
    lane = Lane(LinkSpec(delay_ms=10), 8000.0)
    assert lane.arrival(0.0, 100) == pytest.approx(0.110)
    assert lane.arrival(0.0, 100) == pytest.approx(0.210)  # it waited for the first
    assert lane.arrival(5.0, 100) == pytest.approx(5.110)
    assert Lane(LinkSpec(delay_ms=10), None).arrival(1.0, 10**9) == pytest.approx(1.010)


def test_jitter_stays_within_its_range_and_nothing_overtakes() -> None:
    lane = Lane(LinkSpec(delay_ms=10, jitter_ms=5), None)
    arrivals = [lane.arrival(i * 0.001, 10) for i in range(2000)]
    assert arrivals == sorted(arrivals)
    late = [arrival - i * 0.001 for i, arrival in enumerate(arrivals)]
    assert min(late) >= 0.005
    assert max(late) <= 0.015


def test_netem_is_told_the_same_link() -> None:
    spec = LinkSpec(delay_ms=25, jitter_ms=3, loss=0.01, up_bps=1e6)
    assert " ".join(spec.netem(up=True)) == "delay 25ms 3ms loss 1% rate 1000000bit"
    assert " ".join(spec.netem(up=False)) == "delay 25ms 3ms loss 1%"


@pytest.mark.parametrize(
    "options",
    [
        {"delay_ms": -1},
        {"delay_ms": float("nan")},
        {"delay_ms": 1, "jitter_ms": 2},
        {"loss": 1.0},
        {"up_bps": 0},
    ],
)
def test_impossible_links_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        LinkSpec(**options)


def server(tmp_path: Path) -> list[str]:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    return [sys.executable, str(script), "{host}", "{port}"]


def usable(kind: How) -> bool:
    try:
        if kind == "netem":
            with namespaces.netem_link(LinkSpec(delay_ms=1)):
                return True
    except ResourceError:
        return False
    return kind == "proxy"


@pytest.mark.slow
@pytest.mark.parametrize("loopback", [False, True])
@pytest.mark.parametrize("kind", ["netem", "proxy"])
def test_a_link_delays_and_limits_as_asked_and_leaves_nothing_behind(
    kind: How, loopback: bool, tmp_path: Path
) -> None:
    if not usable(kind):
        pytest.skip(f"this machine cannot make a {kind} link")
    spec = LinkSpec(delay_ms=20, down_bps=8e5)
    with slow_link(spec, server(tmp_path), kinds=[kind], loopback=loopback) as link:
        assert link.kind == kind
        assert (link.host == "127.0.0.1") == (loopback or kind == "proxy")
        done = link.run([sys.executable, "-c", CLIENT, link.host, str(link.port), "40000"], 30)
        assert done.returncode == 0, done.stderr
        times = json.loads(done.stdout)
    # A round trip for the handshake and one for the answer; then 40,000 B at 100 kB/s.
    assert 0.080 <= times["first"] < 0.3
    assert 0.040 <= times["small"] < 0.1
    assert 0.4 <= times["large"] < 1.0
    if kind != "proxy":
        assert f"uhlm-bench-{os.getpid()}-" not in _namespaces()


def _namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout


@pytest.mark.slow
def test_tcp_survives_loss_on_a_link_of_packets(tmp_path: Path) -> None:
    kinds: list[How] = [kind for kind in ("netem",) if usable(kind)]
    if not kinds:
        pytest.skip("this machine has no network namespaces")
    spec = LinkSpec(delay_ms=2, loss=0.05)
    with slow_link(spec, server(tmp_path), kinds=kinds) as link:
        done = link.run([sys.executable, "-c", CLIENT, link.host, str(link.port), "300000"], 60)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_had_is_passed_over_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    spec = LinkSpec(delay_ms=1, loss=0.1)
    with slow_link(spec, server(tmp_path)) as link:
        assert link.kind == "proxy"
        assert link.passed_over.keys() == {"netem"}
        assert re.search("need root|not installed", link.passed_over["netem"])
        assert "loss asked for was not applied" in link.how
        assert link.wrap(["client"]) == ["client"]
        with socket.create_connection((link.host, link.port), 5) as connection:
            connection.sendall(b"3\n")
            assert connection.recv(10) == b"xxx"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((link.host, link.port), 5).close()
    with (
        pytest.raises(ResourceError, match="no slow link can be made here"),
        slow_link(spec, server(tmp_path), kinds=["netem"]),
    ):
        pass


def test_a_server_that_dies_or_never_listens_is_an_error_in_bounded_time() -> None:
    dying = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with (
        pytest.raises(ResourceError, match="no such model"),
        slow_link(LinkSpec(), dying, kinds=["proxy"]),
    ):
        pass
    idle = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with (
        pytest.raises(ResourceError, match="did not listen"),
        slow_link(LinkSpec(), idle, kinds=["proxy"], start_s=0.2),
    ):
        pass
    with (
        pytest.raises(ResourceError, match="cannot be started"),
        slow_link(LinkSpec(), ["/no/such/program"], kinds=["proxy"]),
    ):
        pass


def test_an_error_inside_the_block_still_ends_the_server(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        slow_link(LinkSpec(delay_ms=1), server(tmp_path), kinds=["proxy"]) as link,
    ):
        raise RuntimeError("mine")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((link.host, link.port), 5).close()


def test_a_client_that_hangs_is_ended(tmp_path: Path) -> None:
    with slow_link(LinkSpec(delay_ms=1), server(tmp_path), kinds=["proxy"]) as link:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        with pytest.raises(ResourceError, match="timed out"):
            link.run(command, 0.2)


def test_every_kind_of_link_says_what_it_is() -> None:
    assert "tc netem" in netlink.HOWS["netem"]
    assert "proxy" in netlink.HOWS["proxy"]
