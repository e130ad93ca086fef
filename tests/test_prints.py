"""What is printed passes one function: nothing from outside reaches a terminal as it came."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from uhlm_edge.common.logs import log_to_stderr
from uhlm_edge.common.streams import complain, emit

from .test_layout import MODULES, name

WAYS = {
    "print", "echo", "secho", "stdout.write", "stderr.write", "buffer.write", "_out.write",
    "writelines", "add_task", "update",
}  # fmt: skip
HARMLESS = {"harmless", "one_line", "json.dumps"}
"""json.dumps escapes whatever is not printable ASCII."""

ELSEWHERE = {
    ("common/streams.py", "_wrapped(f'uhlm-edge: {one_line(text)}')"): "one_line cut into lines",
    ("edge/chat/repl.py", "_numbers(assistant.loop.stats, cut)"): "numbers",
    ("edge/chat/repl.py", "fitted(legend(status), sys.stderr)"): "our own marks",
    ("shell/pages.py", "import_module('uhlm_edge.cli').pages('markdown')"): "our own help texts",
    ("edge/chat/batch.py", "f'\\r{n} of {of}'"): "two counts",
    ("quantize/command.py", "report.table()"): "its cells pass one_line",
}
"""What prints a value in another way, and why that is no way in."""

WHOLE = {
    "edge/chat/terminal.py": "marks and movements are its own, text passes harmless in `write`",
    "edge/chat/status.py": "one line of numbers, and movements of its own",
}


def printed(file: Path) -> Iterator[ast.expr]:
    """Everything that a module hands to something that writes to a terminal."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in WAYS or called.endswith(tuple(f".{way}" for way in WAYS)):
            yield from node.args if not called.endswith("update") else ()
            yield from (more.value for more in node.keywords if more.arg in ("description", "what"))


def is_harmless(value: ast.expr) -> bool:
    if isinstance(value, ast.Constant):
        return True
    if isinstance(value, ast.Name):
        return value.id == "__version__"
    if isinstance(value, ast.FormattedValue):
        return is_harmless(value.value)
    if isinstance(value, ast.JoinedStr):
        return all(is_harmless(part) for part in value.values)
    return isinstance(value, ast.Call) and ast.unparse(value.func) in HARMLESS


def test_every_print_of_the_tree_is_harmless() -> None:
    examples = ("experiments/", "examples/", "tests/", "tools/")
    found = {
        (name(file), ast.unparse(value))
        for file in MODULES
        if not name(file).startswith(examples) and name(file) not in WHOLE
        for value in printed(file)
        if not is_harmless(value)
    }
    own = {("common/streams.py", "harmless(str(text))")}
    assert found - ELSEWHERE.keys() - own == set()
    assert ELSEWHERE.keys() <= found  # none of them is left over


def calls(file: Path, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name:
            yield node


def test_no_bar_of_progress_reads_tags_in_what_it_shows() -> None:
    """`a[/b].gguf` as a name would be a mistake in its markup, and `[link=...]` a link."""
    for file in MODULES:
        if "{task." not in file.read_text("utf-8") or name(file).startswith("tests/"):
            continue
        columns = list(calls(file, "TextColumn"))
        assert all("markup=False" in ast.unparse(column) for column in columns), file
        shown = sum("{task." in ast.unparse(column) for column in columns)
        assert file.read_text("utf-8").count("{task.") == shown, file


def test_what_is_logged_is_printed_by_nobody_or_harmless() -> None:
    """Python itself prints a warning that no handler takes, and raw."""
    handled = {
        str(ast.literal_eval(call.args[0]))
        for file in MODULES
        for call in calls(file, "log_to_stderr")
        if isinstance(call.args[0], ast.Constant)
    }
    silent = {file for file in MODULES if any(calls(file, "NullHandler"))}
    for file in MODULES:
        if not name(file).startswith(("tests/", "common/logs.py")) and file not in silent:
            logged = {str(ast.literal_eval(call.args[0])) for call in calls(file, "getLogger")}
            assert logged <= handled, file


def test_a_log_on_stderr_is_harmless_with_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr("uhlm_edge.of_this_test")
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logging.getLogger("uhlm_edge.of_this_test").exception("\x1b]0;owned\x07")
    said = capsys.readouterr().err
    assert "\\x1b]0;owned\\x07\n" in said
    assert "ValueError: \\x1b[2J\n" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J", "\x9b2J", "\x1b]0;\x07", "a\rb", "\u202e", "\ud800"]
)
def test_the_ways_out_escape_what_steers_a_terminal(
    hostile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(hostile)
    emit(hostile, err=True)
    complain(hostile)
    said = "".join(capsys.readouterr())
    assert hostile not in said
    assert not {character for character in said if not character.isprintable()} - {"\n"}
