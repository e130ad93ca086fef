"""`uhlm-edge onnx` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from uhlm_edge.common.errors import UsageError
from uhlm_edge.lm.engines.onnx import OnnxEngine
from uhlm_edge.quantize.onnx.command import onnx

from ..tiny_models import make


def app() -> typer.Typer:
    """A command line with the command and another one."""
    app = typer.Typer()
    app.command()(onnx)
    app.command("other")(lambda: None)
    return app


def test_a_folder_becomes_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make("qwen2").write(tmp_path / "mine")
    result = CliRunner().invoke(app(), ["onnx", "mine"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "mine.INT8.onnx\n"
    assert "run it with --engine onnx --model mine.INT8.onnx" in result.stderr
    engine = OnnxEngine(tmp_path / "mine.INT8.onnx")
    assert engine.eval([1, 2, 3]).shape == (1, len(engine.vocab))


def test_a_name_that_is_neither_is_refused() -> None:
    result = CliRunner().invoke(app(), ["onnx", "no-such-thing"])
    assert isinstance(result.exception, UsageError)
    assert "no model of the catalogue" in str(result.exception)
