"""What `import uhlm_edge` offers, and that it is cheap; the examples run."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import uhlm_edge

from ...commands import environment

EXAMPLES = sorted((Path(uhlm_edge.__file__).parent / "examples").glob("*.py"))
SAID = {
    "stream.py": ["The capital of Peru is Lima."],
    "conversation.py": ["Lima", "Santiago", "tokens were read before"],
    "provenance.py": ["the device proposed", "uploads"],
    "at_once.py": ["Lima", "42", "Santiago", "3 + 4 = 7"],
    "strategies.py": ["'local'}: 0 uploads", "did you mean 'threshold'"],
}


def test_every_public_name_is_there_and_no_other() -> None:
    for name in uhlm_edge.__all__:
        assert getattr(uhlm_edge, name) is not None
    assert dir(uhlm_edge) == sorted(uhlm_edge.__all__)
    assert set(uhlm_edge._HOME) | {"__version__"} == set(uhlm_edge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Hybird'"):
        _ = uhlm_edge.Hybird


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, uhlm_edge; print(*(m for m in sys.modules if m.startswith('uhlm_edge.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.name)
def test_an_example_runs(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    written = capsys.readouterr().out
    assert all(said in written for said in SAID[example.name]), written
