"""The adaptive threshold keeps the target risk, whatever the text and however late the verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.edge.events import Draft, SkippedVerdict
from uhlm_edge.edge.policy.adaptive import Adaptive, Learning
from uhlm_edge.lm.draws import Draws
from uhlm_edge.lm.sampling import TOTAL, Distribution

DRAWS = Draws(0)
SURE = Distribution(np.array([0]), np.array([TOTAL]))
EPSILON = 0.01


def replay(
    policy: Adaptive, tokens: Sequence[tuple[float, float]], turn: int = 0
) -> Iterator[tuple[bool, float]]:
    """Tokens (u, beta) through the policy as the loop does it: yield (uploaded, loss) of each.

    What is skipped is told with the next upload, with an audit, or at the end of a turn of `turn`
    tokens.
    """
    skipped: list[SkippedVerdict] = []
    for i, (u, beta) in enumerate(tokens):
        uploaded = policy.upload(Draft(i, 0, SURE, u), DRAWS)
        if not uploaded:
            skipped.append(SkippedVerdict(i, u, beta))
        last = i + 1 == len(tokens) or (turn and (i + 1) % turn == 0)
        audited = policy.audit_after is not None and (last or len(skipped) >= policy.audit_after)
        if uploaded or audited:
            for judged in skipped:
                policy.observe(judged)
            skipped.clear()
            if uploaded:
                policy.observe(SkippedVerdict(i, u, 0.0))
        if last:
            skipped.clear()  # the reply ends: what nobody asked about is never known
        yield uploaded, 0.0 if uploaded else beta


def mean_risk(policy: Adaptive, tokens: Sequence[tuple[float, float]], turn: int = 0) -> float:
    return float(np.mean([loss for _, loss in replay(policy, tokens, turn)]))


def tasks(n: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Like the demo pair on tasks: nearly always sure, and then right."""
    u = np.where(rng.random(n) < 0.82, 0.0, rng.integers(1, 21, n) / 20)
    beta = np.where(rng.random(n) < np.clip(0.3 * u**2, 0, 1), 1.0, 0.0)
    return list(zip(u.tolist(), beta.tolist(), strict=True))


def dialogues(n: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Like the demo pair on dialogues: wrong now and then even where it is sure."""
    u = rng.integers(0, 21, n) / 20
    beta = np.where(rng.random(n) < np.clip(0.1 + 0.4 * u, 0, 1), rng.random(n), 0.0)
    return list(zip(u.tolist(), beta.tolist(), strict=True))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([0.02, 0.05, 0.3]),
    start=st.floats(-0.5, 1.0),
    turn=st.sampled_from([0, 1, 17]),
    blocks=st.lists(
        st.tuples(st.integers(1, 300), st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
        min_size=1,
        max_size=12,
    ),
)
def test_the_mean_risk_exceeds_the_target_by_no_more_than_the_range_over_gamma_t(
    seed: int, rate: float, start: float, turn: int, blocks: list[tuple[int, float, float]]
) -> None:
    rng = np.random.default_rng(seed)
    tokens = [
        (float(rng.random() < share), float(beta if rng.random() < 0.8 else 1.0))
        for n, share, beta in blocks
        for _ in range(n)
    ]
    policy = Adaptive(start, EPSILON, rate)
    risk = mean_risk(policy, tokens, turn)
    furthest = max(start, 0.0) + rate * ((policy.audit_after or 0) + 1)
    assert risk <= EPSILON + furthest / (rate * len(tokens)) + 1e-12


def test_an_adversary_who_sees_the_threshold_gains_no_more_than_the_bound() -> None:
    policy = Adaptive(0.5, EPSILON)
    losses = []
    skipped: list[SkippedVerdict] = []
    for i in range(20_000):
        u = max(policy.threshold, 0.0) if i % 2 else 0.0  # just low enough to be skipped
        uploaded = policy.upload(Draft(i, 0, SURE, u), DRAWS)
        losses.append(0.0 if uploaded else 1.0)
        if uploaded:
            for judged in [*skipped, SkippedVerdict(i, u, 0.0)]:
                policy.observe(judged)
            skipped.clear()
        else:
            skipped.append(SkippedVerdict(i, u, 1.0))
            if len(skipped) == policy.audit_after:
                for judged in skipped:
                    policy.observe(judged)
                skipped.clear()
    bound = (1.0 + 0.05 * 65) / (0.05 * 20_000)
    assert abs(float(np.mean(losses)) - EPSILON) <= bound


def test_the_risk_is_reached_and_not_only_kept_below() -> None:
    tokens = dialogues(40_000, np.random.default_rng(1))
    risk = mean_risk(Adaptive(0.0, EPSILON), tokens, turn=20)
    bound = (1.0 + 0.05 * 65) / (0.05 * len(tokens))
    assert abs(risk - EPSILON) <= bound


def test_it_holds_when_the_text_changes_where_a_fixed_threshold_does_not() -> None:
    rng = np.random.default_rng(2)
    before, after, target = tasks(20_000, rng), dialogues(20_000, rng), 0.003
    policy = Adaptive(0.15, target)
    mean_risk(policy, before, turn=20)
    moved = mean_risk(policy, after, turn=20)
    fixed = float(np.mean([beta if u <= 0.15 else 0.0 for u, beta in after]))
    assert moved < 1.5 * target
    assert fixed > 3.0 * target


@pytest.mark.parametrize("start", [-0.5, 0.15, 1.0])
def test_it_does_not_end_as_local_on_tasks(start: float) -> None:
    tokens = tasks(60_000, np.random.default_rng(3))
    policy = Adaptive(start, 0.001)
    uploaded = [uploaded for uploaded, _ in replay(policy, tokens, turn=20)]
    assert 0.003 < np.mean(uploaded[-20_000:]) < 0.5


def test_it_is_never_stuck_at_uploading_everything() -> None:
    policy = Adaptive(-0.4, 0.001)
    for i in range(20_000):
        policy.observe(SkippedVerdict(i, 0.0, 0.0))
    assert policy.threshold > 0.0


def test_nobody_climbs_out_of_reach_while_nothing_is_rejected() -> None:
    policy = Adaptive(0.9, 0.001)
    for i in range(100_000):
        policy.observe(SkippedVerdict(i, 1.0, 0.0))
    assert policy.threshold == 1.0


def test_what_is_not_known_to_be_sure_is_uploaded() -> None:
    assert Adaptive(1.0).upload(Draft(0, 0, SURE, None), DRAWS)


@pytest.mark.parametrize("beta", [float("nan"), -0.1, 1.5, float("inf")])
def test_a_beta_that_cannot_be_moves_nothing(beta: float) -> None:
    policy = Adaptive(0.3)
    policy.observe(SkippedVerdict(0, 0.1, beta))
    assert (policy.threshold, policy.tokens) == (0.3, 0)


def test_the_threshold_survives_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state.json"
    policy = Adaptive(0.3, state=state, pair="a/b")
    for _ in range(5):
        policy.observe(SkippedVerdict(0, 0.1, 0.5))
    policy.save()
    again = Adaptive(0.3, state=state, pair="a/b")
    assert again.threshold == policy.threshold < 0.3
    assert (again.tokens, again.loss) == (5, 2.5)
    assert [path.name for path in state.parent.iterdir()] == ["state.json"]


def test_a_state_of_another_pair_or_target_is_not_taken_up(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    policy = Adaptive(0.3, state=state, pair="a/b")
    policy.observe(SkippedVerdict(0, 0.1, 1.0))
    policy.save()
    assert Adaptive(0.3, state=state, pair="a/c").threshold == 0.3
    assert Adaptive(0.3, 0.002, state=state, pair="a/b").threshold == 0.3


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'{"v": 1}', b"\xff", b'{"v": 2, "pair": "", "target": 0.001}',
     json.dumps({"v": 1, "pair": "", "target": 0.001, "threshold": float("nan"), "loss": 0,
                 "tokens": 1}).encode(),
     json.dumps({"v": 1, "pair": "", "target": 0.001, "threshold": "x", "loss": 0,
                 "tokens": 1}).encode()],
)  # fmt: skip
def test_a_damaged_state_begins_anew(tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "state.json"
    state.write_bytes(content)
    assert Adaptive(0.3, state=state).threshold == 0.3


def test_a_state_that_cannot_be_reached_is_brought_back_into_range(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    plain = {"v": 1, "pair": "", "target": 0.001, "threshold": -1e9, "loss": 0.0, "tokens": 1}
    state.write_text(json.dumps(plain))
    assert -10.0 < Adaptive(0.3, state=state).threshold < 0.0


def test_a_disk_that_fails_does_not_end_the_conversation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Adaptive(0.3, state=tmp_path / "file" / "state.json").save()


# Without audits


def test_learning_for_free_comes_down_on_a_text_that_was_not_calibrated() -> None:
    rng = np.random.default_rng(11)
    policy = Learning(0.15, 0.001)
    assert mean_risk(policy, dialogues(500, rng), turn=30) > 0.001
    later = mean_risk(policy, dialogues(20_000, rng), turn=30)
    fixed = float(np.mean([beta * (u <= 0.15) for u, beta in dialogues(20_000, rng)]))
    assert later < 0.003 < fixed / 3


def test_learning_for_free_never_uploads_less_than_the_calibrated_threshold() -> None:
    rng = np.random.default_rng(12)
    policy = Learning(0.15, EPSILON)
    for text in (tasks(3000, rng), dialogues(3000, rng), tasks(3000, rng)):
        for (u, _), (uploaded, _) in zip(text, replay(policy, text, 20), strict=True):
            assert policy.threshold <= 0.15
            assert uploaded or u <= 0.15


def test_learning_for_free_finds_back_to_the_calibrated_threshold() -> None:
    rng = np.random.default_rng(13)
    policy = Learning(0.15, 0.001)
    mean_risk(policy, dialogues(3000, rng), turn=20)
    assert policy.threshold < 0.1
    sure = [(0.0, 0.0)] * 10 + [(1.0, 1.0)]
    mean_risk(policy, sure * 400, turn=11)
    assert policy.threshold == pytest.approx(0.15)
