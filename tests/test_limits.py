"""Limits that the system sets on files end in one line, and nothing half-done stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .quantize.tiny_models import make

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="a shell sets the limits"),
]


def limited(limit: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a shell that sets a limit first."""
    command = [sys.executable, "-m", "uhlm_edge.cli", *arguments]
    return subprocess.run(
        ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("blocks", [1, 60, 400])  # of 512 or 1024 bytes, as the shell has it
def test_a_file_size_limit_while_quantising_is_one_line(blocks: int, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    source = make("llama", width=128, hidden=512).write(tmp_path / "hf")
    out = tmp_path / "out"
    for command in (["quantize", str(source), "--type", "Q8_0"], ["onnx", str(source)]):
        done = limited(f"-f {blocks}", *command, "--out", str(out / command[0]))
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "a file may not become so large" in done.stderr.splitlines()[-1]
        assert not out.exists() or not [file for file in out.rglob("*") if file.is_file()]
        shutil.rmtree(out, ignore_errors=True)


def test_too_few_files_for_the_demo_s_verifier_is_one_line_and_an_answer() -> None:
    done = limited("-n 12", "run", "hi", "--strategy", "hlm")  # which needs a verdict for sure
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr
    assert "never awaited" not in done.stderr
    assert "ulimit -n" in done.stderr
