"""Completion, manual and reference are made of the commands, and say what these do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer

import uhlm_edge
from uhlm_edge import cli
from uhlm_edge.shell.completion import SHELLS, completion
from uhlm_edge.shell.tree import Command, tree

ROOT = Path(uhlm_edge.__file__).parent


@pytest.fixture(scope="module")
def root() -> Command:
    return tree(typer.main.get_command(cli.app), "uhlm-edge")


def completed(script: str, *words: str) -> set[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _uhlm_edge"
    done = subprocess.run(
        ["bash", "-c", script + "\n" + ask + '\nprintf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_flags_and_values(root: Command, tmp_path: Path) -> None:
    script = completion(root, "bash")
    assert {"run", "chat", "bench"} <= completed(script, "uhlm-edge", "")
    assert completed(script, "uhlm-edge", "benc") == {"bench"}
    assert "strategies" in completed(script, "uhlm-edge", "bench", "")
    assert completed(script, "uhlm-edge", "run", "--max-t") == {"--max-tokens"}
    offered = completed(script, "uhlm-edge", "chat", "--seed", "1", "--strategy", "")
    assert {"uhlm", "hlm", "local"} <= offered
    assert "--strategy" not in offered
    assert completed(script, "uhlm-edge", "run", "--strategy", "sp") == {"spec"}
    model = tmp_path / "model.gguf"
    model.touch()
    assert completed(script, "uhlm-edge", "run", "--model", f"{tmp_path}/mo") == {str(model)}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_valid_for_its_shell(root: Command, shell: str) -> None:
    script = completion(root, shell)
    for command in root.walk():
        assert command.path[-1] in script
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell} here to read it; its content was looked at")
    done = subprocess.run(
        [program, "-n"], input=script, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_man_page_names_every_command_and_option(root: Command) -> None:
    page = cli.pages("man").replace("\\-", "-")
    for command in root.walk():
        if not command.subcommands:
            assert f"\n.SS {command.usage}" in page
        for option in command.options if not command.subcommands else ():
            assert option.names[0] in page
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-man", "-Tascii", "-ww", "-z"],
            input=cli.pages("man"),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stderr == ""


def test_the_reference_in_the_docs_is_that_of_the_commands() -> None:
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert written == cli.pages("markdown"), "run: make reference"


def test_every_command_and_option_says_what_it_does(root: Command) -> None:
    mute = [c.name for c in root.walk() if not c.help]
    mute += [f"{c.name} {o.names[0]}" for c in root.walk() for o in c.options if not o.help]
    assert not mute
