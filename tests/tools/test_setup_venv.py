"""The set-up script: what it shows, what it refuses, and that it passes on how pip ended."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "setup_venv.py"


@pytest.fixture(scope="module")
def setup_venv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_venv", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(setup_venv: ModuleType, tmp_path: Path, code: str, out: io.StringIO) -> int:
    """Watch a Python one-liner in the place of pip."""
    command = [sys.executable, "-c", code]
    status = setup_venv.watch(command, {}, tmp_path / "setup.log", setup_venv.Progress(out))
    assert isinstance(status, int)
    return status


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("  [37/140] Building CXX object a.o\n", "compiling llama.cpp, step 37 of 140"),
        ("Collecting numpy>=2.2 (from x)\n", "Collecting numpy"),
        (
            "  Building wheel for llama-cpp-python (pyproject.toml)\n",
            "Building wheel for llama-cpp-python",
        ),
        ("Installing collected packages: a, b\n", "Installing collected packages"),
        ("  -- Configuring done (0.5s)\n", ""),
        ("  copying a[1/2] b\n", ""),
    ],
)
def test_pip_s_output_tells_the_state(setup_venv: ModuleType, line: str, state: str) -> None:
    assert setup_venv.state_of(line) == state


STEPS = "print('[1/2] cc a'); print('[2/2] cc b')"


def test_a_terminal_shows_each_step_in_one_line(setup_venv: ModuleType, tmp_path: Path) -> None:
    out = Terminal()
    assert run(setup_venv, tmp_path, STEPS, out) == 0
    assert "step 1 of 2" in out.getvalue()
    assert "step 2 of 2" in out.getvalue()
    assert "\n" not in out.getvalue()


def test_elsewhere_a_line_is_shown_every_while(
    setup_venv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    assert run(setup_venv, tmp_path, STEPS, out) == 0
    assert out.getvalue() == ""
    monkeypatch.setattr(setup_venv, "EVERY", 0)
    assert run(setup_venv, tmp_path, STEPS, out) == 0
    assert out.getvalue() == (
        "0:00 compiling llama.cpp, step 1 of 2\n0:00 compiling llama.cpp, step 2 of 2\n"
    )


def test_a_failure_keeps_its_status_and_shows_the_last_lines(
    setup_venv: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "for i in range(100): print(f'line {i}.')\nraise SystemExit(3)"
    assert run(setup_venv, tmp_path, code, io.StringIO()) == 3
    shown = capsys.readouterr().err
    assert "line 99." in shown
    assert "line 70." in shown
    assert "line 69." not in shown
    assert str(tmp_path / "setup.log") in shown
    assert (tmp_path / "setup.log").read_text(encoding="utf-8").startswith("line 0.")


def test_a_missing_compiler_is_one_line(
    setup_venv: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert setup_venv.main(str(tmp_path / "venv"), "cloud") == 2
    assert capsys.readouterr().err.splitlines() == [
        "setup: a C++ compiler is missing: install one, on Debian `apt install g++`"
    ]
    assert not (tmp_path / "venv").exists()


def test_a_missing_venv_module_is_one_line(
    setup_venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_venv, "find_spec", lambda _: None)
    assert "python3-venv" in setup_venv.problem(compiles=False)


def test_an_environment_that_was_moved_is_not_used(setup_venv: ModuleType, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    (home / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        (home / "bin" / name).touch()
    assert not setup_venv.is_usable(home)
    (home / ".path").write_text(f"{home}\n", encoding="utf-8")
    assert setup_venv.is_usable(home)
    moved = home.rename(tmp_path / "moved")
    assert not setup_venv.is_usable(moved)
