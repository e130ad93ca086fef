"""What is printed passes one function: nothing from outside reaches a terminal as it came."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from uhlm_edge.common.streams import complain, emit

from .test_layout import MODULES, name

WAYS = {"print", "echo", "secho", "stdout.write", "stderr.write", "buffer.write"}
HARMLESS = {"harmless", "one_line", "json.dumps"}
"""json.dumps escapes whatever is not printable ASCII."""

ELSEWHERE = {
    ("common/streams.py", "_wrapped(f'uhlm-edge: {one_line(text)}')"): "one_line cut into lines",
    ("edge/chat/repl.py", "summary(assistant.loop.stats, Style.of(sys.stderr), cut)"): "numbers",
    ("edge/chat/repl.py", "legend(status)"): "our own marks",
    ("shell/pages.py", "import_module('uhlm_edge.cli').pages('markdown')"): "our own help texts",
    ("edge/chat/batch.py", "f'\\r{n} of {of}'"): "two counts",
    ("quantize/command.py", "report.table()"): "its cells pass one_line",
}
"""What prints a value in another way, and why that is no way in."""


def printed(file: Path) -> Iterator[ast.expr]:
    """Everything that a module hands to something that writes to a terminal."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in WAYS or called.endswith(tuple(f".{way}" for way in WAYS)):
            yield from node.args


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
        if not name(file).startswith(examples)
        for value in printed(file)
        if not is_harmless(value)
    }
    own = {("common/streams.py", "harmless(str(text))")}
    assert found - ELSEWHERE.keys() - own == set()
    assert ELSEWHERE.keys() <= found  # none of them is left over


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
