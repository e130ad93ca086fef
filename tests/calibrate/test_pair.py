"""The demo pair calibrated by the command, and what is shipped of it, on the real models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import uhlm_edge
from uhlm_edge.cli import app
from uhlm_edge.common.errors import DataError, ResourceError, UsageError
from uhlm_edge.edge.policy.calibration import load
from uhlm_edge.edge.policy.reward import RewardHead
from uhlm_edge.lm.row import Row
from uhlm_edge.models import shipped as models

DATA = Path(uhlm_edge.__file__).parent / "common" / "data"
SHIPPED = models.FOLDER / "calibrations"


def some_prompts(folder: Path, name: str, n: int) -> Path:
    path = folder / f"{name}.jsonl"
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:n]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "0"], "leaves no distributions"),
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "2"], "--top-p"),
        (["--risk", "0"], "--risk"),
        (["--estimator", "both"], "sampled or expected"),
        (["--out", "file.txt"], r"end with \.json"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: list[str], message: str) -> None:
    arguments = ["calibrate", "--prompts", "tasks", "--out", str(tmp_path / "a.json"), *options]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert message.replace("\\", "") in str(result.exception)


def test_too_few_prompts_are_refused_with_how_many_more(tmp_path: Path) -> None:
    prompts = some_prompts(tmp_path, "tasks", 11)
    out = tmp_path / "a.json"
    result = CliRunner().invoke(app, ["calibrate", "--prompts", str(prompts), "--out", str(out)])
    assert isinstance(result.exception, DataError)
    assert "19 more" in str(result.exception)
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "a.json"
    result = CliRunner().invoke(app, ["calibrate", "--prompts", "tasks", "--out", str(out)])
    assert isinstance(result.exception, ResourceError)
    assert "file" in str(result.exception)


@pytest.mark.parametrize("name", ["tasks", "dialogues"])
def test_the_shipped_prompts_are_what_the_shipped_calibration_was_made_on(name: str) -> None:
    import hashlib

    content = (DATA / f"{name}.jsonl").read_bytes()
    assert load(SHIPPED / f"{name}.json").prompts_digest == hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_the_command_calibrates_the_pair_and_the_device_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    lines = (DATA / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    # The shortest history of each conversation.
    first = {json.loads(line)["conversation"]: line for line in reversed(lines)}
    prompts = tmp_path / "dialogues.jsonl"
    prompts.write_text("\n".join(list(first.values())[:75]), encoding="utf-8")
    # One thread a model: many wait for each other on a busy machine.
    settings = tmp_path / "one.toml"
    one = "n_threads = 1\nn_threads_batch = 1\n"
    settings.write_text(f"[device.engine]\n{one}[verifier.engine]\n{one}")
    given = ["--prompts", str(prompts), "--max-tokens", "40", "--config", str(settings)]
    result = CliRunner().invoke(app, ["calibrate", *given])
    assert result.exception is None, result.exception
    folder = tmp_path / "config" / "uhlm-edge" / "calibrations"
    made = load(folder / "dialogues.json")
    assert made.device.name == "demo-slm.Q4_K_M"
    assert 0.1 < made.laws["sampled"].a < 0.8
    assert "adaptive is recommended" in result.stderr
    assert "# dialogues: demo-slm.Q4_K_M with demo-llm.Q6_K" in result.stdout
    head = RewardHead(made.head_path(folder))
    assert head.metadata["calibration"] == "dialogues"
    for picture in ("rejection", "risk"):
        assert (folder / f"dialogues.{picture}.png").read_bytes().startswith(b"\x89PNG")
    before = (folder / "dialogues.json").read_bytes()
    again = CliRunner().invoke(app, ["calibrate", *given])
    assert again.exception is None, again.exception
    assert (folder / "dialogues.json").read_bytes() == before  # from the rows, nothing run again


@pytest.mark.parametrize("name", ["tasks", "dialogues"])
def test_the_shipped_head_gives_probabilities(name: str) -> None:
    head = RewardHead(SHIPPED / load(SHIPPED / f"{name}.json").head_path(SHIPPED).name)
    rng = np.random.default_rng(0)
    rows = (2 * rng.standard_normal((20, 8192))).astype(np.float32)
    for i, row in enumerate(rows):
        assert 0.0 < head.score(i, Row(row), i, 0.1) < 1.0


@pytest.mark.parametrize("name", ["tasks", "dialogues"])
def test_the_shipped_head_beats_u(name: str) -> None:
    made = load(SHIPPED / f"{name}.json")
    assert made.head is not None
    quality = made.head.quality
    assert quality["head"].auroc > max(quality[u].auroc for u in ("sampled", "expected"))
    assert quality["head"].calibration_error < quality["sampled"].calibration_error


def test_prompts_of_tasks_have_answers_and_dialogues_share_conversations() -> None:
    tasks, dialogues = (
        [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("tasks", "dialogues")
    )
    assert all(row["answer"] for row in tasks)
    assert len({row["messages"][0]["content"] for row in tasks}) == len(tasks)
    assert len({row["conversation"] for row in dialogues}) == 150
