"""Run the command as a user does: in this process when it must be quick, else as a real one."""

from __future__ import annotations

import http.server
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from uhlm_edge import cli
from uhlm_edge.models import shipped as models

COMMAND = [sys.executable, "-m", "uhlm_edge.cli"]
DEVICE_MODEL = models.path_of("demo-slm")


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines of stderr that are for the user."""
        return [line for line in self.err.splitlines() if line.startswith("uhlm-edge: ")]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's, with nothing in it that concerns the project."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("UHLM_") and k != "NO_COLOR"}
    return {**kept, "XDG_CONFIG_HOME": str(home), "HOME": str(home), **more}


def run(
    arguments: Sequence[str],
    home: Path,
    stdin: bytes = b"",
    more: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> Result:
    """Run `uhlm-edge` in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(home, **(more or {})),
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_here(
    arguments: Sequence[str],
    home: Path,
    stdin: bytes = b"",
    more: Mapping[str, str] | None = None,
) -> Result:
    """The same in this process: quicker by all that a process loads.

    Its streams are files, as those of a process may be.
    """
    wanted = environment(home, **(more or {}))
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        streams = [
            stack.enter_context(open(file.fileno(), mode, encoding="utf-8", closefd=False))
            for file, mode in zip(files, "rww", strict=True)
        ]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in set(os.environ) - set(wanted):
            patch.delenv(name)
        for name, value in wanted.items():
            patch.setenv(name, value)
        patch.setattr("sys.argv", ["uhlm-edge", *arguments])
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(f"sys.{name}", stream)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = []
        for stream, file in zip(streams[1:], files[1:], strict=True):
            stream.flush()
            file.seek(0)
            said.append(file.read().decode())
    return Result(int(ended.value.code or 0), *said)


class RunningVerifier:
    """`uhlm-edge cloud` as a process, and where it listens."""

    def __init__(self, home: Path, port: int = 0, key: str = "", *arguments: str) -> None:
        more = {"UHLM_API_KEY": key} if key else {}
        self.process = subprocess.Popen(
            [*COMMAND, "cloud", "--port", str(port), "--threads", "1", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(home, **more),
        )
        assert self.process.stderr is not None
        self.log = [self.process.stderr.readline().decode()]
        assert "://" in self.log[0], self.log[0] + self.process.stderr.read().decode()
        self.url = self.log[0].split(" at ")[1].split(",")[0].strip()
        self.port = int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self.process.kill()
        self._reap()

    def stop(self) -> str:
        """Tell it to stop, and return all that it wrote."""
        self.process.terminate()
        return self._reap()

    def _reap(self) -> str:
        _, err = self.process.communicate(timeout=60)
        return self.log[0] + (err or b"").decode()


@contextmanager
def verifier(
    home: Path, port: int = 0, key: str = "", *arguments: str
) -> Iterator[RunningVerifier]:
    """A verifier for as long as the context lasts."""
    running = RunningVerifier(home, port, key, *arguments)
    try:
        yield running
    finally:
        running.kill()


@contextmanager
def web_server(status: int, body: bytes = b"<html>hello</html>") -> Iterator[str]:
    """The URL of an HTTP server that is no verifier: it answers everything the same way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def with_another_vocabulary(path: Path) -> Path:
    """Write a copy of the device's model in which one token means something else."""
    content = DEVICE_MODEL.read_bytes()
    token, other = "Ġcapital".encode(), "Ġcapitol".encode()
    old, new = (struct.pack("<Q", len(text)) + text for text in (token, other))
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path
