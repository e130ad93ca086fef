"""The command as a process: what it imports, what it opens, how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .commands import COMMAND, environment, run_here, verifier, web_server

pytestmark = pytest.mark.slow

ENDLESS = ["--temperature", "3", "--top-k", "0", "--top-p", "1", "--max-tokens", "900"]

IMPORTS = """
import sys
from uhlm_edge.cli import main
sys.argv = ["uhlm-edge", *{arguments!r}]
try:
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""

NO_SOCKETS = """
import sys
def refuse(event, arguments):
    if event == "socket.__new__" and arguments[1] in (2, 10):  # AF_INET, AF_INET6
        raise SystemExit("a socket was opened")
sys.addaudithook(refuse)
from uhlm_edge.cli import main
sys.argv = ["uhlm-edge", *{arguments!r}]
main()
"""

NO_CONNECTIONS = """
import socket, sys
class Refused(socket.socket):
    def connect(self, *arguments):
        raise SystemExit("a connection was opened")
    connect_ex = listen = connect
socket.socket = Refused
from uhlm_edge.cli import main
sys.argv = ["uhlm-edge", *{arguments!r}]
main()
"""


def python(script: str, arguments: list[str], home: Path, **more: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script.format(arguments=arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(home, **more),
        timeout=120,
        check=False,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["cloud", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code, out, modules = python(IMPORTS, arguments, tmp_path)
    assert code == 0
    assert out.startswith("Usage: uhlm-edge")
    loaded = {module.split(".")[0] for module in modules.split()}
    assert "typer" in loaded
    assert not loaded & {"llama_cpp", "numpy", "requests", "starlette", "onnxruntime"}


OFFLINE = [
    (["--offline"], {}),
    (["--cloud", "http://192.0.2.1:1", "--strategy", "hlm"], {"UHLM_NO_CLOUD": "1"}),
    (["--strategy", "local"], {}),
    (["--strategy", "cloud"], {"UHLM_CLOUD_OFFLINE": "true"}),
]


@pytest.mark.parametrize(("flags", "more"), OFFLINE, ids=["flag", "none", "local", "key"])
def test_offline_connects_nowhere(flags: list[str], more: dict[str, str], tmp_path: Path) -> None:
    asked = ["run", "What is the capital of Peru?", "--seed", "1"]
    script = NO_SOCKETS if sys.platform == "linux" else NO_CONNECTIONS
    code, out, err = python(script, [*asked, *flags], tmp_path, **more)
    assert (code, out, err) == (0, "The capital of Peru is Lima.\n", "")


def test_online_a_connection_is_opened(tmp_path: Path) -> None:
    """The test above can fail."""
    for script in (NO_CONNECTIONS, NO_SOCKETS):
        code, _, err = python(script, ["run", "Hello!"], tmp_path)
        assert code == 1
        assert "was opened" in err


def test_a_closed_stdout_pipe_is_told_in_one_line(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [*COMMAND, "run", "Hello!", "--offline"],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as process:
        os.close(writer)
        _, err = process.communicate(timeout=60)
    assert err == b"uhlm-edge: stdout was closed before everything was written; the rest is lost\n"
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "Hello!", "--offline"],
        ["run", "Hello!", "--offline", "--json"],
        ["chat", "--offline"],
        ["config", "show"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_a_full_disk_is_told_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=b"Hello!\n",
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
            timeout=60,
            check=False,
        )
    assert done.stderr.endswith(
        b"uhlm-edge: cannot write (No space left on device); the rest is lost\n"
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1


def test_a_full_stderr_keeps_the_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" 2>/dev/full', "sh", *COMMAND, "run", "", "--offline"],
        capture_output=True,
        env=environment(tmp_path),
        timeout=60,
        check=False,
    )
    assert done.returncode == 2


def test_a_reader_that_goes_away_stops_the_reply(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "run", "Tell me everything.", "--offline", "--json", *ENDLESS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b'"event": "token"' in process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read().count(b"\n") == 1


def test_ctrl_c_ends_run_in_one_line(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "run", "Tell me everything.", "--offline", *ENDLESS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out.endswith(b"\n")
    assert err == b"uhlm-edge: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("redirection", "code", "answers"),
    [("<&-", 0, True), ("2>&-", 0, True), (">&-", 2, False)],
    ids=["stdin", "stderr", "stdout"],
)
def test_streams_that_are_closed_do_no_harm(
    redirection: str, code: int, answers: bool, tmp_path: Path
) -> None:
    """The demo's verifier starts too: its socket must not take a stream's number."""
    line = ' "$@" ' + redirection
    done = subprocess.run(
        ["/bin/sh", "-c", line, "sh", *COMMAND, "run", "Hello!", "--strategy", "hlm"],
        capture_output=True,
        env=environment(tmp_path),
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert bool(done.stdout) is answers
    assert b"Traceback" not in done.stderr


CANARY, KEY = "Zanzibar kumquat quincunx", "canary-key-0123456789abcdef"


def files_below(folder: Path) -> str:
    return "".join(f.read_text("utf-8", "replace") for f in folder.rglob("*") if f.is_file())


def test_neither_prompt_nor_key_is_written_anywhere(tmp_path: Path) -> None:
    """Not by the device and not by the verifier; with a fault too."""
    home = tmp_path / "home"
    home.mkdir()
    written = []
    with verifier(home, 0, KEY) as running:
        for key in (KEY, "wrong-" + KEY):
            for strategy in ("hlm", "cloud"):
                asked = ["run", "-", "--cloud", running.url, "--verbose", "--strategy", strategy]
                result = run_here(asked, home, CANARY.encode(), {"UHLM_API_KEY": key})
                assert result.code == 0
                written.append(result.err)
        written.append(running.stop())
    with web_server(500, CANARY.encode()) as url:
        asked = ["run", CANARY, "--cloud", url]
        written.append(run_here(asked, home, more={"UHLM_API_KEY": KEY}).err)
    asked = ["config", "show"]
    shown = run_here(asked, home, more={"UHLM_API_KEY": KEY})
    written += [shown.out, shown.err, files_below(home)]
    everything = "".join(written)
    assert "refuses the key" in everything
    for word in (*CANARY.split(), KEY, "wrong-"):
        assert word not in everything
