"""The threshold of strategy `handoff`: the curve by hand, the choice, the file, who finds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.calibrate.handoff import (
    Row,
    calibrate_handoff,
    choose,
    curve,
    with_answers,
)
from uhlm_edge.calibrate.rows import rows_path
from uhlm_edge.common.errors import CloudError, ConfigError, DataError
from uhlm_edge.common.prompts import Message
from uhlm_edge.configs.config import Config
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.policy.calibration import ModelKey
from uhlm_edge.edge.policy.handoff_calibration import HandoffCalibration, Point, find_handoff
from uhlm_edge.edge.policy.tuning import handoff_threshold

from ..commands import run_here

ROWS = st.lists(st.builds(Row, st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.booleans(), st.booleans()))
KEY = ModelKey(name="small", vocabulary=(8, "f" * 32))


@given(ROWS.filter(bool), st.floats(-0.9, 1.0))
def test_the_curve_has_what_every_threshold_gives(rows: list[Row], threshold: float) -> None:
    point = [p for p in curve(rows) if p.threshold <= threshold][-1]
    handed = [row for row in rows if row.risk > threshold]
    kept = [row for row in rows if row.risk <= threshold]
    assert point.share == len(handed) / len(rows)
    right = sum(row.cloud_right for row in handed) + sum(row.device_right for row in kept)
    assert point.accuracy == right / len(rows)


@given(ROWS.filter(bool))
def test_the_curve_goes_from_the_endpoint_alone_to_the_device_alone(rows: list[Row]) -> None:
    first, *_, last = curve(rows)
    assert (first.share, last.share) == (1.0, 0.0)
    assert first.accuracy == sum(row.cloud_right for row in rows) / len(rows)
    assert last.accuracy == sum(row.device_right for row in rows) / len(rows)


def test_the_choice_hands_over_least_of_what_is_good_enough() -> None:
    table = [(-1.0, 1.0, 0.97), (0.1, 0.4, 0.98), (0.2, 0.2, 0.972), (0.3, 0.0, 0.9)]
    points = [Point(threshold=t, share=s, accuracy=a) for t, s, a in table]
    assert choose(points).threshold == 0.2
    assert choose(points, loss=0.0).threshold == 0.1


def tasks(folder: Path, n: int = 60, answered: int = 60) -> Path:
    """Rows of which the device gets the even ones right; one conversation has two of them."""
    file = folder / "tasks.jsonl"
    lines = [
        {"prompt": f"{i}", "conversation": i // 2, "answer" if i < answered else "reference": "ok"}
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def write(messages: Sequence[Message], seed: int) -> tuple[str, list[float]]:
    """Unsure of the odd rows, where it is wrong; past the window it is sure of nothing."""
    odd = int(messages[-1]["content"]) % 2
    return ("no" if odd else " ok\n"), [*[0.5 if odd else 0.125] * 24, 1.0]


def ask(messages: Sequence[Message], seed: int) -> str:
    return "ok" if int(messages[-1]["content"]) % 12 != 2 else "no"


def calibrated(folder: Path, config: Config | None = None, **more: Any) -> HandoffCalibration:
    out = folder / "calibrations" / "tasks.handoff.json"
    return calibrate_handoff(
        config or Config(), KEY, more.pop("write", write), more.pop("ask", ask), "big",
        tasks(folder), out, **more,
    )  # fmt: skip


def test_the_threshold_is_chosen_apart_from_the_conversations_that_it_is_tried_on(
    tmp_path: Path,
) -> None:
    made = calibrated(tmp_path)
    assert made.rows == (48, 12)  # every fifth conversation of two rows
    assert made.chosen == Point(threshold=0.125, share=0.5, accuracy=1.0)
    assert made.held_out == Point(threshold=made.chosen.threshold, share=0.5, accuracy=1.0)
    assert made.device_alone == 0.5
    assert made.endpoint_alone < 1.0


def test_what_was_measured_before_an_interruption_is_not_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def until(n: int) -> Any:
        def some(messages: Sequence[Message], seed: int) -> str:
            if len(asked) == n:
                raise CloudError("gone")
            asked.append(messages[-1]["content"])
            return ask(messages, seed)

        return some

    with pytest.raises(CloudError):
        calibrated(tmp_path, ask=until(20))
    rows = rows_path(tmp_path / "calibrations" / "tasks.handoff.json")
    rows.write_text(rows.read_text() + '{"risk": 0.')  # as of a process that was killed
    made = calibrated(tmp_path, ask=until(60))
    assert asked == [str(i) for i in range(60)]
    (tmp_path / "whole").mkdir()
    assert made == calibrated(tmp_path / "whole")


def test_rows_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    calibrated(tmp_path)
    other = load_config({("strategy", "window"): 8}, environment={}).config
    with pytest.raises(DataError, match="other models, prompts or settings"):
        calibrated(tmp_path, other)


@pytest.mark.parametrize(("n", "answered"), [(60, 0), (58, 58)])
def test_too_few_rows_with_answers_are_refused_at_once(
    tmp_path: Path, n: int, answered: int
) -> None:
    with pytest.raises(DataError, match=r"answer|too few"):
        with_answers(tasks(tmp_path, n, answered))


def test_handoff_without_a_threshold_takes_that_of_its_calibration(tmp_path: Path) -> None:
    home, where = tmp_path / "uhlm-edge", {"XDG_CONFIG_HOME": str(tmp_path)}
    config = load_config({("strategy", "name"): "handoff"}, environment={}).config
    assert handoff_threshold(config, KEY, where) is None
    home.mkdir()
    made = calibrated(home)
    assert handoff_threshold(config, KEY, where) == made.chosen.threshold
    other = KEY.model_copy(update={"name": "other"})
    assert handoff_threshold(config, other, where) is None
    given = load_config({("strategy", "threshold"): 0.3}, environment={}).config
    assert handoff_threshold(given, KEY, where) == 0.3


def test_a_calibration_of_another_window_is_refused_by_name(tmp_path: Path) -> None:
    calibrated(tmp_path)
    folders = [tmp_path / "calibrations"]
    assert find_handoff(folders, KEY, 8, "sampled") is None
    with pytest.raises(DataError, match="--window 24"):
        find_handoff(folders, KEY, 8, "sampled", name="tasks")
    assert find_handoff(folders, KEY, 24, "sampled", "head") is None
    with pytest.raises(DataError, match="--ask-by uncertainty"):
        find_handoff(folders, KEY, 24, "sampled", "head", name="tasks")
    with pytest.raises(ConfigError, match="there are: tasks"):
        find_handoff(folders, KEY, 24, "sampled", name="task")


def test_of_several_the_one_of_this_endpoint_goes_first(tmp_path: Path) -> None:
    made = calibrated(tmp_path)
    folder = tmp_path / "calibrations"
    far = made.model_copy(update={"endpoint": "far", "made": "2099-01-01"})
    (folder / "far.handoff.json").write_text(far.model_dump_json())
    found = find_handoff([folder], KEY, 24, "sampled", "uncertainty", "big")
    assert found is not None
    assert found.endpoint == "big"
    newest = find_handoff([folder], KEY, 24, "sampled")
    assert newest is not None
    assert newest.endpoint == "far"


@pytest.mark.parametrize("more", [[], ["--handoff"]])
def test_too_few_prompts_are_refused_before_a_model_is_looked_for(
    tmp_path: Path, more: list[str]
) -> None:
    few = tmp_path / "five.jsonl"
    few.write_text('{"prompt": "hi", "answer": "ho"}\n' * 5)
    found = run_here(
        ["calibrate", "--prompts", str(few), "--model", "nowhere.gguf", *more], tmp_path
    )
    assert found.code == 2
    assert "5 conversations are too few for a fit: 25 more are needed" in found.err


@pytest.mark.slow
def test_the_demo_pair_is_calibrated_from_end_to_end(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "common/data/tasks.jsonl"
    rows = tmp_path / "some.jsonl"
    rows.write_text("".join(shipped.read_text("utf-8").splitlines(True)[:40]), "utf-8")
    home = tmp_path / "uhlm-edge"
    found = run_here(
        ["calibrate", "--handoff", "--prompts", str(rows), "--max-tokens", "48"],
        tmp_path, more={"UHLM_DEVICE_ENGINE_N_THREADS": "1", "UHLM_VERIFIER_ENGINE_N_THREADS": "1"},
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "chosen on 32 rows of some.jsonl" in found.out
    assert "40 of 40 replies" in found.err  # progress in a pipe
    file = home / "calibrations" / "some.handoff.json"
    made = HandoffCalibration.model_validate_json(file.read_bytes())
    assert made.endpoint == "demo-llm.Q6_K"
