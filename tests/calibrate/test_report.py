"""What is told of a calibration: pictures, the check on other text, the experiment's table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("onnx")

from uhlm_edge.calibrate import run as bench
from uhlm_edge.calibrate.head import features
from uhlm_edge.calibrate.plot import draw
from uhlm_edge.calibrate.shadow import Setting
from uhlm_edge.edge.policy.reward import RewardHead
from uhlm_edge.experiments.adaptive import Segment, halves, pooled, table
from uhlm_edge.experiments.calibration_check import check, predict
from uhlm_edge.lm.sampling import Sampler

from .test_calibrate import fake_pair, prompts_file

PLAIN = Sampler(temperature=1.0, top_k=0, top_p=1.0)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[bench.Result, Path]:
    folder = tmp_path_factory.mktemp("calibrations")
    setting = Setting(sampler=PLAIN, max_tokens=30)
    text = bench.Text(prompts_file(folder), folder / "mine.json", setting)
    (made,) = bench.calibrate(fake_pair(), [text])
    return made, folder


def test_two_pictures_lie_beside_the_file(result: tuple[bench.Result, Path]) -> None:
    made, folder = result
    pictures = draw(made, folder / "mine.json")
    assert [path.name for path in pictures] == ["mine.rejection.png", "mine.risk.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_exported_head_predicts_what_the_trained_one_does(
    result: tuple[bench.Result, Path],
) -> None:
    made, folder = result
    assert made.head is not None
    rows = np.concatenate([features(replay) for replay in made.held_out])
    exported = predict(made.calibration.head_path(folder), rows)
    assert exported == pytest.approx(made.head.predict(rows), abs=1e-4)


def test_the_head_says_what_it_was_made_for(result: tuple[bench.Result, Path]) -> None:
    made, folder = result
    about = RewardHead(made.calibration.head_path(folder)).metadata
    assert (about["device"], about["cloud"]) == ("fake-slm", "fake-llm")
    assert (about["calibration"], about["estimator"]) == ("mine", "sampled")


def test_one_head_learns_from_all_texts_and_each_text_has_its_own_threshold(
    tmp_path: Path,
) -> None:
    texts = [
        bench.Text(prompts_file(tmp_path), tmp_path / f"{name}.json", Setting(PLAIN, max_tokens=n))
        for name, n in (("a", 30), ("b", 28))
    ]
    first, second = bench.calibrate(fake_pair(), texts, target_risk=0.02)
    alone = bench.calibrate(fake_pair(), texts[:1], target_risk=0.02)[0]
    assert first.head is second.head
    rows = np.concatenate([features(replay) for replay in first.held_out])
    beta = np.concatenate([replay.beta for replay in first.held_out])
    assert first.head is not None
    assert alone.head is not None
    assert not np.array_equal(first.head.predict(rows), alone.head.predict(rows))
    made = first.calibration.head
    assert made is not None
    assert made.risk is not None
    skipped = 1.0 - first.head.predict(rows) <= made.risk
    assert (beta * skipped).mean() <= 0.02
    assert (~skipped).mean() == made.quality["head"].uploads
    assert second.calibration.head is not None
    assert second.calibration.head.risk != made.risk


def test_a_check_fits_nothing_but_compares(result: tuple[bench.Result, Path]) -> None:
    made, folder = result
    text = check(made.calibration, folder, made.held_out)
    for words in ("| head |", "| sampled u |", "| entropy |", "| oracle |", "0.073"):
        assert words in text
    beta = np.concatenate([replay.beta for replay in made.held_out])
    assert f"mean beta {beta.mean():.4f}" in text


def test_the_table_says_which_risk_lies_above_the_target() -> None:
    none = [0] * 50
    below = Segment("a", "t", "s", [10] * 50, [1] * 50, [0.0] * 50, [1.0] * 50, [0.1] * 50, none)
    above = replace(below, uploads=[9] * 50, losses=[0.5, 0.3] * 25, thresholds=[0.2] * 50)
    both = pooled([below, above])
    assert (both.risk, both.rate, both.accuracy) == pytest.approx((0.02, 0.5, 1.0))
    lines = table([below, above, both], 0.001).splitlines()[2:]
    assert [line.count("(above)") for line in lines] == [0, 1, 1]
    assert "0.100 to 0.200" in lines[2]


def test_a_long_text_is_told_in_two_parts_and_no_token_is_lost() -> None:
    made = Segment("a", "t", "s", [10] * 200, [1] * 200, [0.1] * 200, [1.0] * 200, [0.1] * 200)
    made.audits = [1] * 200
    first, rest = halves(made)
    assert (sum(first.tokens), sum(rest.tokens)) == (500, 1500)
    assert sum(first.audits) == 50
    assert sum(rest.losses) == pytest.approx(15.0)
    assert first.accuracy == rest.accuracy == 1.0
    short = Segment("a", "t", "s", [10] * 100)
    assert halves(short) == [short]
