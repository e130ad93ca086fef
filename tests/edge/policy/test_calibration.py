"""A calibration is found by its pair, refused for another one, and never guessed at."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from uhlm_edge.common.errors import ConfigError, DataError
from uhlm_edge.edge.policy.calibration import (
    Calibration,
    HeadFile,
    Law,
    ModelKey,
    find,
    load,
    model_digest,
    require_pair,
)
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.models import shipped as models

VOCABULARY = (8192, "ab" * 16)
SLM = ModelKey(name="slm.Q4", vocabulary=VOCABULARY, digest="d1")
LLM = ModelKey(name="llm.Q6", vocabulary=VOCABULARY, digest="d2")
REMOTE = LLM.model_copy(update={"digest": None})  # as a verifier tells who it is
PLAIN = Sampler(temperature=1.0, top_k=0, top_p=1.0)
SHIPPED = models.FOLDER / "calibrations"


def law(**changes: Any) -> Law:
    plain = {
        "a": 0.8, "a_error": 0.02, "b": -0.01, "b_error": 0.001, "r": 0.7,
        "averse": 0.0125, "prone": 0.25, "risk": 0.15, "levels": (), "grid": (),
    }  # fmt: skip
    return Law.model_validate(plain | changes)


def calibration(**changes: Any) -> Calibration:
    plain = {
        "name": "mine", "made": "2025-01-01", "device": SLM, "cloud": LLM, "sampler": PLAIN,
        "wire_top": 64, "k": 20, "seed": 1, "max_tokens": 128, "replies": 1, "prompts": "p.jsonl",
        "prompts_digest": "0", "conversations": 50, "tokens": 5000, "delta": 0.19,
        "delta_rounded": 0.55, "certain": 0.5, "mean_beta": 0.01, "mean_beta_rounded": 0.01,
        "target_risk": 0.001, "laws": {"sampled": law()},
    }  # fmt: skip
    return Calibration.model_validate(plain | changes)


def write(folder: Path, **changes: Any) -> Path:
    made = calibration(**changes)
    path = folder / f"{made.name}.json"
    path.write_text(made.model_dump_json())
    return path


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    assert load(write(tmp_path)) == calibration()


@pytest.mark.parametrize("choice", ["averse", "prone", "risk"])
def test_a_threshold_has_a_name(choice: str) -> None:
    assert calibration().threshold(choice) == getattr(law(), choice)


@pytest.mark.parametrize(("text", "value"), [("0.3", 0.3), ("-1", -1.0), ("0", 0.0)])
def test_a_threshold_is_a_number(text: str, value: float) -> None:
    assert calibration().threshold(text) == value


@pytest.mark.parametrize("text", ["", "often", "nan", "inf", "0,3"])
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="averse, prone, risk or a number"):
        calibration().threshold(text)


def test_a_law_without_a_threshold_says_why_and_what_to_do() -> None:
    weak = law(averse=None, prone=None, risk=None, r=0.1, advice="u says little (r 0.10)")
    with pytest.raises(ConfigError, match=r"no risk threshold: u says little.*adaptive"):
        calibration(laws={"sampled": weak}).threshold("risk")
    assert calibration(laws={"sampled": weak}).start("sampled", "uncertainty") == 0.0


def test_the_head_has_a_threshold_at_the_risk_that_was_measured_and_no_other() -> None:
    file = HeadFile(
        file="a.onnx", sha256="", estimator="sampled", held_out=9, quality={}, risk=0.07
    )
    made = calibration(head=file)
    assert made.threshold("risk", ask_by="head") == made.start("sampled", "head") == 0.07
    assert made.threshold("0.2", ask_by="head") == 0.2
    with pytest.raises(ConfigError, match="averse is one of u"):
        made.threshold("averse", ask_by="head")
    for none in (None, file.model_copy(update={"risk": None})):
        with pytest.raises(ConfigError, match="calibrate again"):
            calibration(head=none).threshold("risk", ask_by="head")
        assert calibration(head=none).start("sampled", "head") == 0.0


def test_an_estimator_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing about expected u"):
        calibration().threshold("risk", "expected")


def test_it_is_found_by_its_pair(tmp_path: Path) -> None:
    other = SLM.model_copy(update={"name": "another", "digest": "d9"})
    write(tmp_path, name="a", device=other)
    write(tmp_path, name="b")
    found = find([tmp_path / "none", tmp_path], SLM, REMOTE)
    assert found is not None
    assert (found[0].name, found[1]) == ("b", tmp_path)
    assert find([tmp_path], LLM, SLM) is None


def test_the_same_sampler_goes_before_the_newest_and_that_before_others(tmp_path: Path) -> None:
    write(tmp_path, name="old", made="2024-01-01")
    write(tmp_path, name="new", made="2025-06-01")
    write(tmp_path, name="chat", made="2023-01-01", sampler=Sampler())
    for sampler, name in ((None, "new"), (PLAIN, "new"), (Sampler(), "chat")):
        found = find([tmp_path], SLM, LLM, sampler=sampler)
        assert found is not None
        assert found[0].name == name


def test_a_damaged_file_does_not_hide_a_good_one(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "a.json").write_text("{")
    assert find([tmp_path], SLM, LLM) is not None


@pytest.mark.parametrize(
    ("device", "cloud", "message"),
    [
        (SLM.model_copy(update={"name": "x", "digest": "d3"}), LLM, "not of x with llm.Q6"),
        (SLM, ModelKey(name="y", vocabulary=VOCABULARY), "not of slm.Q4 with y"),
        (SLM, LLM.model_copy(update={"vocabulary": (8192, "cd")}), "the files differ"),
        (SLM.model_copy(update={"digest": "d3"}), LLM, "the files differ"),
    ],
)
def test_one_of_another_pair_is_refused_by_name(
    tmp_path: Path, device: ModelKey, cloud: ModelKey, message: str
) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=rf"mine is of slm\.Q4 with llm\.Q6.*{message}.*calibrate"):
        find([tmp_path], device, cloud, "mine")
    with pytest.raises(DataError):
        find([], device, cloud, str(tmp_path / "mine.json"))


def test_a_renamed_file_of_the_same_model_fits() -> None:
    require_pair(calibration(), SLM.model_copy(update={"name": "renamed"}), REMOTE)


@pytest.mark.parametrize("name", ["none", "../mine", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path)
    with pytest.raises(ConfigError, match="no calibration is called"):
        find([tmp_path / "sub"], SLM, LLM, name)
    with pytest.raises(ConfigError, match="there are: mine"):
        find([tmp_path], SLM, LLM, "none")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"v": 2}', b"null", b"x" * (5 << 20)]
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"c\.json"):
        load(path)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(calibration().model_dump_json()[:-1] + ', "extra": 1}')
    with pytest.raises(DataError, match="extra"):
        load(path)


def head_file(content: bytes, name: str = "mine.onnx") -> HeadFile:
    digest = hashlib.sha256(content).hexdigest()
    return HeadFile(file=name, sha256=digest, estimator="sampled", held_out=1, quality={})


def test_the_head_is_the_one_that_was_measured(tmp_path: Path) -> None:
    made = calibration(head=head_file(b"head"))
    path = tmp_path / "mine.onnx"
    with pytest.raises(DataError, match="No such file"):
        made.head_path(tmp_path)
    path.write_bytes(b"head")
    assert made.head_path(tmp_path) == path
    path.write_bytes(b"another")
    with pytest.raises(DataError, match="not the head that mine was measured with"):
        made.head_path(tmp_path)
    with pytest.raises(ConfigError, match="no reward head"):
        calibration().head_path(tmp_path)


@pytest.mark.parametrize("name", ["../mine.onnx", "/etc/mine.onnx", "mine.so", ""])
def test_a_head_lies_beside_its_calibration(name: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        head_file(b"", name)


def test_a_digest_tells_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    content = bytearray(range(256)) * 1000
    path.write_bytes(content)
    first = model_digest(path)
    assert first == model_digest(path)
    content[100_000] ^= 1
    path.write_bytes(content)
    assert model_digest(path) != first
    path.write_bytes(content[:-1])
    assert model_digest(path) != first
    with pytest.raises(DataError, match="No such file"):
        model_digest(tmp_path / "none")


@pytest.mark.parametrize("name", ["tasks", "dialogues"])
def test_the_shipped_calibrations_are_of_the_shipped_pair(name: str) -> None:
    made = load(SHIPPED / f"{name}.json")
    assert made.name == name
    assert made.device.digest == model_digest(models.path_of("demo-slm"))
    assert made.cloud.digest == model_digest(models.path_of("demo-llm"))
    assert made.head_path(SHIPPED).is_file()


def test_the_shipped_calibration_of_tasks_has_thresholds_and_that_of_dialogues_advice() -> None:
    tasks, dialogues = (load(SHIPPED / f"{name}.json") for name in ("tasks", "dialogues"))
    assert 0 <= tasks.threshold("averse") < tasks.threshold("risk") < 1.0
    assert tasks.laws["sampled"].advice is None
    assert dialogues.threshold("averse") < 0
    assert "adaptive" in (dialogues.laws["sampled"].advice or "")
