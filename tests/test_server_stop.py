"""Both servers as processes: told to stop, they end in order."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .commands import COMMAND, environment

pytestmark = pytest.mark.slow

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@contextmanager
def serving(
    command: str, home: Path, **more: str
) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """A server that listens, and a connection to it."""
    with subprocess.Popen(
        [*COMMAND, command, "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home, UHLM_DEVICE_ENGINE_N_THREADS="1", **more),
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "://" in line)
            address = re.search(r"://([\d.]+):(\d+)", line)
            assert address is not None
            with socket.create_connection((address[1], int(address[2])), 60) as client:
                yield process, client
        finally:
            process.kill()


def wait_until_closed(address: tuple[str, int]) -> None:
    """Until a server takes no connections any more: it knows that it is to stop."""
    with suppress(ConnectionError):
        while True:
            socket.create_connection(address, 60).close()


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: str(number.name))
@pytest.mark.parametrize("command", ["serve", "cloud"])
def test_a_server_that_is_told_to_stop_has_done_its_work(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    with serving(command, tmp_path) as (process, client):
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert client.recv(9) == b"HTTP/1.1 "
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "interrupted" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: str(number.name))
def test_serve_keeps_what_it_has_read_for_the_next_start(
    number: signal.Signals, tmp_path: Path
) -> None:
    """It is told in the middle of a reply."""
    cache = {"UHLM_DEVICE_PROMPT_CACHE_MB": "64", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    body = json.dumps({"prompt": "One two " * 50, "max_tokens": 400, "stream": True}).encode()
    with serving("serve", tmp_path, UHLM_NO_CLOUD="1", **cache) as (process, client):
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        assert client.recv(15).startswith(b"HTTP/1.1 200")
        process.send_signal(number)
        assert process.wait(60) == 0
    assert any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize(
    ("command", "path"), [("serve", "/v1/completions"), ("cloud", "/v1/verify")]
)
def test_a_client_that_never_ends_its_request_is_hung_up_on(
    command: str, path: str, signals: int, tmp_path: Path
) -> None:
    """Within seconds; at a second signal at once."""
    with serving(command, tmp_path) as (process, client):
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += f"x-session-id: {'a' * 32}\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(12) == b"HTTP/1.1 100"
        process.send_signal(signal.SIGINT)
        if signals == 2:
            wait_until_closed(client.getpeername())  # or both might arrive as one
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert not [line for line in err.splitlines() if line.startswith("ERROR")]
