"""A command line that is wrong is told in one line, in our words, whatever the parser says."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from uhlm_edge.cli import app
from uhlm_edge.shell.misuse import misuse

WRONG = {
    "bench latency --repeats 1": "--repeats must be at least 2",
    "bench latency --repeats x": "--repeats must be a whole number",
    "bench latency --foo": "there is no option --foo; there is --format, --out",
    "run hi --max-tokens": "--max-tokens wants a value after it",
    "run hi there": "there: too many words; quote what belongs together",
    "run hi --temperature warm": "--temperature must be a number",
    "calibrate": "give --prompts",
    "nosuch": "there is no command nosuch; --help lists them",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_one_line_and_exit_2(line: str) -> None:
    found = CliRunner().invoke(app, line.split())
    assert found.exit_code == 2
    assert found.stderr == f"uhlm-edge: {WRONG[line]}\n"
    assert found.stdout == ""


def test_what_the_parser_may_say_tomorrow_is_passed_on() -> None:
    assert misuse("Something new.") == "Something new."
    assert misuse("Invalid value for '-x': so") == "-x cannot be that: so"
    assert misuse("'1' is not in the range x>=2.") == "'1' is not in the range x>=2."
    old = "Invalid value for '--repeats': 1 is not in the range x>=2."
    assert misuse(old) == "--repeats must be at least 2"


def test_a_group_without_a_command_shows_its_help() -> None:
    found = CliRunner().invoke(app, ["bench"])
    assert found.exit_code == 2
    assert "Usage: " in found.output
    assert "latency" in found.output
