"""The reward head: its features, its history under rollback, and files it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.common.errors import ModelError
from uhlm_edge.edge.policy.reward import FEATURES, FORMAT, N_FEATURES, History, RewardHead, features
from uhlm_edge.lm.row import Row

onnx = pytest.importorskip("onnx")

from uhlm_edge.calibrate.head import Head, export  # noqa: E402


def make_head(seed: int = 0) -> Head:
    rng = np.random.default_rng(seed)
    sizes = [(N_FEATURES, 64), (64, 64), (64, 1)]
    layers = [
        ((0.2 * rng.standard_normal(s)).astype(np.float32),
         rng.standard_normal(s[1]).astype(np.float32))
        for s in sizes
    ]  # fmt: skip
    mean = rng.standard_normal(N_FEATURES).astype(np.float32)
    spread = rng.uniform(0.5, 2.0, N_FEATURES).astype(np.float32)
    return Head(mean, spread, layers)


@pytest.fixture
def head(tmp_path: Path) -> RewardHead:
    return RewardHead(export(make_head(), tmp_path / "head.onnx", {}))


def rows(n: int, vocab: int = 300, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return (3 * rng.standard_normal((n, vocab))).astype(np.float32)


def log_softmax(row: NDArray[Any], temperature: float) -> NDArray[Any]:
    z = row.astype(np.float64) / temperature
    log_p: NDArray[Any] = z - z.max() - np.log(np.exp(z - z.max()).sum())
    return log_p


@pytest.mark.parametrize("seed", range(5))
def test_marks_are_what_their_names_say(seed: int) -> None:
    (row,) = rows(1, seed=seed)
    draft = int(np.argsort(-row)[seed])
    marks = dict(zip(FEATURES, features(Row(row), draft, 0.35).tolist(), strict=True))
    log_p = log_softmax(row, 1.0)
    p = np.exp(log_p)
    expected = {
        "uncertainty": 0.35,
        "log_q": log_p[draft],
        "log_q_cold": log_softmax(row, 0.5)[draft],
        "log_q_hot": log_softmax(row, 2.0)[draft],
        "entropy": -(p * log_p).sum(),
        "log_sum_squares": np.log((p * p).sum()),
        "log_rank": np.log1p(seed),
        **{f"log_top_{i}": np.sort(log_p)[::-1][i] for i in range(8)},
    }
    assert marks == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    "row",
    [
        np.array([5.0, *[-np.inf] * 50]),
        np.array([900.0, *[-900.0] * 50]),
        np.zeros(51),
        np.array([0.0, 0.0, -np.inf]),
    ],
)
def test_marks_are_finite_for_every_row(row: NDArray[Any]) -> None:
    row = row.astype(np.float32)
    for draft in range(len(row)):
        assert np.isfinite(features(Row(row), draft, 0.0)).all()


def test_it_computes_what_was_trained(head: RewardHead) -> None:
    table = np.empty((20, N_FEATURES), dtype=np.float32)
    history = History()
    scores = []
    for i, row in enumerate(rows(20)):
        history.write(i, features(Row(row), i, 0.05 * i), table[i])
        scores.append(head.score(i, Row(row), i, 0.05 * i))
    assert scores == pytest.approx(make_head().predict(table).tolist(), abs=1e-4)


def test_a_rollback_leaves_no_trace(head: RewardHead) -> None:
    many = rows(120)
    straight = [head.score(i, Row(row), i, 0.1) for i, row in enumerate(many)]
    head.reset()
    for i in range(90):
        head.score(i, Row(many[(7 * i) % 120]), 3, 0.9)
    for start in (60, 20, 0):
        again = [head.score(i, Row(many[i]), i, 0.1) for i in range(start, 120)]
    assert again == straight


def test_a_rollback_to_the_middle_keeps_what_was_before(head: RewardHead) -> None:
    many = rows(40)
    straight = [head.score(i, Row(row), i, 0.1) for i, row in enumerate(many)]
    head.reset()
    for i in range(20):
        head.score(i, Row(many[i]), i, 0.1)
    for i in range(20, 35):
        head.score(i, Row(many[0]), 0, 1.0)
    assert [head.score(i, Row(many[i]), i, 0.1) for i in range(20, 40)] == straight[20:]


def test_a_new_reply_knows_nothing_of_the_old_one(head: RewardHead) -> None:
    (row,) = rows(1)
    first = head.score(0, Row(row), 1, 0.2)
    for i in range(1, 200):
        head.score(i, Row(row), 2, 0.8)
    head.reset()
    assert head.score(0, Row(row), 1, 0.2) == first


def test_the_past_is_what_it_was_and_never_what_is_to_come() -> None:
    table = np.zeros((6, N_FEATURES), dtype=np.float32)
    history = History()
    marks = [features(Row(row), 0, 0.1 * i) for i, row in enumerate(rows(6))]
    for i, mark in enumerate(marks):
        history.write(i, mark, table[i])
    other = History()
    changed = np.zeros_like(table)
    for i, mark in enumerate(marks):
        other.write(i, mark + (1.0 if i >= 3 else 0.0), changed[i])
    assert np.array_equal(table[:3], changed[:3])
    assert (table[4] != changed[4]).any()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"head\.onnx: No such file"):
        RewardHead(tmp_path / "head.onnx")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07" * 50])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "head.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no reward head"):
        RewardHead(path)


@pytest.mark.parametrize("about", [{"features": "others/9"}, {"features": ""}])
def test_a_head_for_other_features_is_refused(tmp_path: Path, about: dict[str, Any]) -> None:
    path = export(make_head(), tmp_path / "head.onnx", about)
    with pytest.raises(ModelError, match=f"other features than {FORMAT}"):
        RewardHead(path)
