"""Each command in README, guides and the page of boards runs, with the demo pair for the models.

Forms ("--prompts FILE") and what needs the internet, weights or minutes are only parsed
(`test_docs.py`); the latter are named here.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from uhlm_edge.models import shipped

from .commands import COMMAND, environment, run_here, verifier
from .test_docs import ROOT, commands_of

PAGES = [ROOT / "README.md", ROOT / "docs" / "boards.md", *sorted(ROOT.glob("docs/guides/*.md"))]
ELSEWHERE = {
    "pull qwen2.5-0.5b": "a download",
    "chat --profile pi5 --model qwen2.5-0.5b --cloud https://example.org": "what was downloaded",
    "calibrate --handoff --prompts mine.jsonl --cloud https://api.example.org/v1 --cloud-model big":
        "somebody's endpoint",
    "bench map": "minutes",
    "bench turns --strategy local --threads 1": "minutes",
    "bench restart --threads 1": "a minute",
    "bench restart --model demo-llm --threads 1": "minutes",
}  # fmt: skip
ALONE = ("chat", "doctor", "serve")
"""Commands that do something without a word; others are only named where they stand alone."""


def is_form(words: list[str]) -> bool:
    """Does it say FILE or URL where something of the reader's belongs?"""
    return any(re.fullmatch(r"[A-Z]{3,}(/[A-Z]+)?(:\w+)?", word) for word in words)


CALLS = sorted(
    {
        shlex.join(words if len(words) > 1 or words[0] in ALONE else [*words, "--help"])
        for page in PAGES
        for words in ([word for word in found if word != "&"] for found in commands_of(page))
        if words and not is_form(words)
    }
)


def test_what_is_not_run_is_in_the_documents_still() -> None:
    assert set(ELSEWHERE) <= set(CALLS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents take for granted: two models and a file of keys."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(shipped.path_of("demo-slm"), folder / "small.gguf")
    shutil.copy(shipped.path_of("demo-llm"), folder / "large.gguf")
    (folder / "keys").touch(mode=0o600)
    (folder / "keys").write_text("0123456789abcdef0123456789abcdef\n")
    return folder


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    with verifier(home) as running:
        yield running.url


def here(call: str, url: str) -> list[str]:
    """The words of a call with an address that answers, and any port that is free."""
    words = [re.sub(r"^https://.*", url, word) for word in shlex.split(call)]  # nothing goes out
    before = ["", *words]
    return ["0" if last == "--port" else word for last, word in zip(before, words, strict=False)]


@pytest.mark.slow
@pytest.mark.parametrize("call", [call for call in CALLS if call not in ELSEWHERE])
def test_a_command_of_the_documents_runs(
    call: str, home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = here(call, url)
    if words[0] in ("cloud", "serve") and "--help" not in words:
        serves(words, home)
        return
    monkeypatch.chdir(home)
    done = run_here(words, home, b"What is the capital of Peru?\n", {"XDG_CACHE_HOME": str(home)})
    assert "Traceback" not in done.err
    # doctor's 1: this machine is no board, and it says so.
    assert done.code in ((0, 1) if words[0] == "doctor" else (0,)), done.err
    if words[0] == "chat":
        assert "Lima" in done.out


def serves(words: list[str], home: Path) -> None:
    """A server answers, and ends when it is told to."""
    more = ["--port", "0"] if "--port" not in words else []
    with subprocess.Popen(
        [*COMMAND, *words, *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=home,
        env=environment(home),
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        found = next(
            (m for line in lines if (m := re.search(r"https?://([\d.]+):(\d+)", line))), None
        )
        try:
            assert found is not None
            with socket.create_connection((found[1], int(found[2])), 60) as asking:
                asking.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):  # by one that expects TLS
                    asking.recv(1)  # from now on it is up, and a signal is heard
        finally:
            process.terminate()
        process.stderr.read()
        assert process.wait(60) == 0
