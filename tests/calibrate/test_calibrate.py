"""Fits, thresholds and the shadow run, on made-up laws and fake models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.calibrate import run as bench
from uhlm_edge.calibrate.fit import MIN_TOKENS, fit_law, fit_line, require_enough
from uhlm_edge.calibrate.head import features, train
from uhlm_edge.calibrate.rows import rows_path
from uhlm_edge.calibrate.scores import auroc, calibration_error, rate_at_risk, risk_curve
from uhlm_edge.calibrate.shadow import Replay, Setting, shadow_run
from uhlm_edge.common.errors import DataError
from uhlm_edge.common.prompts import Case, Message, read_prompts
from uhlm_edge.edge.policy.calibration import ModelKey, load
from uhlm_edge.edge.policy.reward import FEATURES
from uhlm_edge.lm.chat import ChatEncoder
from uhlm_edge.lm.draws import Draws, Purpose, turn_seed
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Sampler
from uhlm_edge.lm.verification import judge

from ..fakes import CLOUD, DEVICE, END, FakeEngine

PLAIN = Sampler(temperature=1.0, top_k=0, top_p=1.0)
SETTING = Setting(sampler=PLAIN, max_tokens=12)


def replays(
    n: int, a: float, b: float, noise: float = 0.05, length: int = 40, seed: int = 0
) -> list[Replay]:
    """Replies whose beta is about a u + b, clipped to [0, 1]."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        expected = rng.random(length)
        sampled = rng.binomial(20, expected) / 20
        beta = np.clip(a * sampled + b + noise * rng.standard_normal(length), 0.0, 1.0)
        q = np.full(length, 0.5)
        marks = np.zeros((length, len(FEATURES)), dtype=np.float32)
        marks[:, 0] = sampled
        ids = [1] * length
        made.append(Replay(number, ids, sampled, expected, q, q, q * (1 - beta), marks))
    return made


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    u, cluster = rng.random(500), np.arange(500)
    beta = 0.4 * u + 0.1 + 0.1 * rng.standard_normal(500)
    line = fit_line(u, beta, cluster)
    assert (line.a, line.b) == pytest.approx(tuple(np.polyfit(u, beta, 1)))
    assert line.r == pytest.approx(np.corrcoef(u, beta)[0, 1])
    residual = beta - line.a * u - line.b
    classical = np.sqrt((residual @ residual) / 498 / ((u - u.mean()) ** 2).sum())
    assert line.a_error == pytest.approx(classical, rel=0.1)


def test_tokens_that_repeat_each_other_do_not_make_the_errors_smaller() -> None:
    rng = np.random.default_rng(1)
    u = rng.random(200)
    beta = 0.5 * u + 0.1 * rng.standard_normal(200)
    once = fit_line(u, beta, np.arange(200))
    often = fit_line(np.repeat(u, 9), np.repeat(beta, 9), np.repeat(np.arange(200), 9))
    assert often.a_error == pytest.approx(once.a_error)
    assert often.b_error == pytest.approx(once.b_error)


def test_thresholds_follow_from_the_law() -> None:
    law = fit_law(replays(100, 0.8, -0.1, noise=0.0), "sampled")
    assert law.averse == pytest.approx(-law.b / law.a)
    assert law.r > 0.9
    assert law.advice is None


def test_prone_is_where_the_line_reaches_the_share_of_tokens_that_the_llm_likes_less() -> None:
    """Delta = P(p(d) < q(d)), far from 1 here: in a third of the replies p is q."""
    equal = replays(50, 0.0, 0.0, noise=0.0, seed=1)
    made = [*replays(100, 0.8, 0.0, noise=0.0), *(replace(r, p=r.q) for r in equal)]
    tokens = [pair for replay in made for pair in zip(replay.p, replay.q, strict=True)]
    delta = sum(p < q for p, q in tokens) / len(tokens)
    assert 0.5 < delta < 0.7
    law = fit_law(made, "sampled")
    assert law.prone == pytest.approx((delta - law.b) / law.a)


def test_the_risk_threshold_is_the_largest_that_keeps_the_target() -> None:
    made = replays(100, 0.8, -0.1, noise=0.0)
    law = fit_law(made, "sampled", 0.02)
    u = np.concatenate([replay.sampled for replay in made])
    beta = np.concatenate([replay.beta for replay in made])
    assert law.risk is not None
    assert (beta * (u <= law.risk)).mean() <= 0.02 < (beta * (u <= law.risk + 0.051)).mean()


@pytest.mark.parametrize(("a", "noise"), [(-0.5, 0.02), (0.0, 0.3), (0.02, 0.3)])
def test_a_correlation_near_zero_gives_no_thresholds_and_recommends_adaptive(
    a: float, noise: float
) -> None:
    law = fit_law(replays(100, a, 0.5, noise), "sampled")
    assert (law.averse, law.prone, law.risk) == (None, None, None)
    assert "not trustworthy; adaptive" in (law.advice or "")


def test_u_that_never_varies_gives_no_thresholds() -> None:
    same = [
        Replay(r.conversation, r.ids, r.sampled * 0, r.expected * 0, r.q, r.q, r.p, r.marks)
        for r in replays(40, 0.5, 0.1)
    ]
    law = fit_law(same, "sampled")
    assert law.risk is None
    assert "not trustworthy" in (law.advice or "")


def test_rejection_without_uncertainty_makes_averse_negative_and_says_so() -> None:
    law = fit_law(replays(100, 0.4, 0.2), "sampled")
    assert law.averse is not None
    assert law.averse < 0
    assert law.risk is None
    assert "averse is negative" in (law.advice or "")


def test_predictions_stand_beside_measurements() -> None:
    law = fit_law(replays(200, 0.7, -0.02, noise=0.01), "sampled")
    assert [row.threshold for row in law.grid] == [i / 20 for i in range(21)]
    for row in law.grid:
        assert row.rate_predicted == pytest.approx(row.rate_measured, abs=0.05)
        assert row.risk_predicted == pytest.approx(row.risk_measured, abs=0.01)
    assert (law.grid[-1].rate_measured, law.grid[-1].rate_predicted) == (0.0, 0.0)


def test_the_integral_bound_lies_above_the_law_s_own_risk() -> None:
    made = replays(200, 0.7, -0.02, noise=0.0)
    law = fit_law(made, "expected")
    u = np.concatenate([replay.expected for replay in made])
    for row in law.grid:
        own = (np.maximum(0.0, law.a * u + law.b) * (u <= row.threshold)).mean()
        assert row.risk_bound is not None
        assert row.risk_bound >= 0.95 * own  # f is estimated from bins
    assert all(row.risk_bound is None for row in fit_law(made, "sampled").grid)


def test_levels_are_the_distribution_of_u() -> None:
    made = replays(100, 0.7, -0.02)
    for estimator in ("sampled", "expected"):
        levels = fit_law(made, estimator).levels
        assert sum(level.share for level in levels) == pytest.approx(1.0)
        mean = sum(level.share * level.beta for level in levels)
        assert mean == pytest.approx(np.concatenate([r.beta for r in made]).mean())


def test_too_few_conversations_say_how_many_more() -> None:
    with pytest.raises(DataError, match=r"7 conversations are too few.*23 more"):
        require_enough(7)


def test_too_few_tokens_say_how_many_more_prompts() -> None:
    with pytest.raises(DataError, match=r"200 tokens are too few.*about 160 more prompts"):
        require_enough(40, 200)
    with pytest.raises(DataError, match="tokens are too few"):
        fit_law(replays(40, 0.5, 0.0, length=MIN_TOKENS // 40 - 1), "sampled")


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=2, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(tokens: list[tuple[int, float]]) -> None:
    score, beta = (np.array(column, dtype=float) for column in zip(*tokens, strict=True))
    pairs = [
        (beta[i] * (1 - beta[j]), (score[i] > score[j]) + 0.5 * (score[i] == score[j]))
        for i in range(len(score))
        for j in range(len(score))
    ]
    total = sum(weight for weight, _ in pairs)
    if total > 1e-9:
        expected = sum(weight * order for weight, order in pairs) / total
        assert auroc(score, beta) == pytest.approx(expected)


def test_a_calibrated_score_has_no_calibration_error() -> None:
    beta = np.linspace(0, 1, 500, dtype=np.float64)
    assert calibration_error(beta, beta) == pytest.approx(0.0)
    assert calibration_error(np.full(500, 0.9), beta) == pytest.approx(0.4)


def test_the_oracle_s_curve_is_never_above_another() -> None:
    rng = np.random.default_rng(0)
    beta, score = rng.random(400), rng.random(400)
    rate, risk = risk_curve(score, beta)
    best_rate, best_risk = risk_curve(beta, beta)
    assert (rate[0], risk[-1]) == (0.0, 0.0)
    assert (rate[-1], risk[0]) == (pytest.approx(1.0), pytest.approx(beta.mean()))
    assert (np.interp(rate, best_rate, best_risk) <= risk + 1e-9).all()


def test_the_rate_at_a_risk_is_the_smallest_of_the_curve_that_keeps_it() -> None:
    rng = np.random.default_rng(5)
    beta = rng.random(300) ** 4
    score = np.round(beta + rng.normal(0, 0.2, 300), 1)  # levels are shared
    rate, risk = risk_curve(score, beta)
    risks = [0.0, 0.01, 0.05, 1.0]
    found = [rate[risk <= most + 1e-12].min() for most in risks]
    assert rate_at_risk(score, beta, risks) == pytest.approx(found)
    twice = np.repeat([0, 2, 1], 100)
    drawn = np.repeat(np.arange(300), twice)
    assert rate_at_risk(score, beta, risks, twice) == pytest.approx(
        rate_at_risk(score[drawn], beta[drawn], risks)
    )


def test_the_head_learns_what_the_marks_tell() -> None:
    made = replays(120, 0.9, 0.0, noise=0.0)
    head = train(made[:80], epochs=30)
    table = np.concatenate([features(replay) for replay in made[80:]])
    beta = np.concatenate([replay.beta for replay in made[80:]])
    assert np.abs(1.0 - head.predict(table) - beta).mean() < 0.05


# The shadow run


def prompts_file(folder: Path, n: int = 40) -> Path:
    path = folder / "prompts.jsonl"
    messages = [[{"role": "user", "content": f"tell me {i}"}] for i in range(n)]
    path.write_text("".join(json.dumps({"messages": m}) + "\n" for m in messages))
    return path


def fake_pair() -> bench.Pair:
    keys = [
        ModelKey(name=model.name, vocabulary=model.vocab.fingerprint) for model in (DEVICE, CLOUD)
    ]
    return bench.Pair(FakeEngine(DEVICE, 4096), FakeEngine(CLOUD, 4096), *keys)


def test_what_is_recorded_is_what_both_models_say(tmp_path: Path) -> None:
    prompts = read_prompts(prompts_file(tmp_path, 3))
    pair = fake_pair()
    made = list(shadow_run(pair.device, pair.cloud, prompts, SETTING))
    assert len(made) == 3
    replaced = 0
    for turn, (prompt, replay) in enumerate(zip(prompts, made, strict=True)):
        text = f"{prompt.messages[0]['role']}: {prompt.messages[0]['content']}\nassistant:"
        ids = DEVICE.vocab.tokenize(text)
        draws = Draws(turn_seed(0, turn))
        for i, draft in enumerate(replay.ids):
            own, other = DEVICE.row(ids), CLOUD.row(ids)
            rounded = PLAIN.distribution(Row(own), 64)
            assert draft == rounded.draw(draws.one(Purpose.DRAFT, i))
            assert replay.q[i] == pytest.approx(PLAIN.probs(Row(own))[draft])
            assert replay.p[i] == pytest.approx(PLAIN.probs(Row(other))[draft])
            assert replay.q_rounded[i] == rounded.weight(draft) / TOTAL
            verdict = judge([draft], [rounded], [PLAIN.probs(Row(other))], turn_seed(0, turn), i)
            replaced += verdict.replacement is not None
            ids.append(draft if verdict.replacement is None else verdict.replacement)
        assert np.array_equal(replay.beta, np.maximum(0, 1 - replay.p / replay.q))
    assert replaced  # the text goes on with what the LLM wrote


def test_a_reply_survives_its_line(tmp_path: Path) -> None:
    pair = fake_pair()
    (replay,) = shadow_run(
        pair.device, pair.cloud, read_prompts(prompts_file(tmp_path, 1)), SETTING
    )
    again = Replay.from_json(replay.to_json())
    assert again.ids == replay.ids
    for name in ("sampled", "expected", "q", "q_rounded", "p", "marks"):
        assert getattr(again, name) == pytest.approx(getattr(replay, name), rel=1e-4, abs=1e-6)


def run(folder: Path, out: str = "mine.json", **changes: object) -> bench.Result:
    setting = Setting(sampler=PLAIN, max_tokens=30, seed=int(str(changes.pop("seed", 0))))
    prompts = prompts_file(folder, 40)
    text = bench.Text(prompts, folder / out, setting)
    (result,) = bench.calibrate(fake_pair(), [text], with_head=False, **changes)  # type: ignore[arg-type]
    return result


def test_one_file_holds_what_was_found(tmp_path: Path) -> None:
    result = run(tmp_path)
    read = load(tmp_path / "mine.json")
    assert read == result.calibration
    assert (read.name, read.device.name, read.cloud.name) == ("mine", "fake-slm", "fake-llm")
    assert set(read.laws) == {"sampled", "expected"}
    p, q = (np.concatenate([getattr(r, name) for r in result.replays]) for name in "pq")
    assert read.delta == pytest.approx((p < q).mean())
    assert "| sampled |" in bench.describe(read)


class Interrupted(Exception):
    pass


def stop_after(n: int) -> object:
    def advance(done: int, total: int) -> None:
        if done == n:
            raise Interrupted

    return advance


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    for stop in (5, 6, 31):
        with pytest.raises(Interrupted):
            run(tmp_path, advance=stop_after(stop))
    rows = rows_path(tmp_path / "mine.json")
    with rows.open("a") as file:
        file.write('{"conversation": 7, "ids": [1')  # cut off in the middle of a line
    begun: list[int] = []
    result = run(tmp_path, advance=lambda done, total: begun.append(done))
    assert begun[0] == 31
    whole = run(tmp_path, "whole.json")
    again, straight = (r.calibration.model_dump(exclude={"name"}) for r in (result, whole))
    assert again == straight


def test_rows_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(DataError, match=r"mine\.rows\.jsonl: holds rows of other.*another --out"):
        run(tmp_path, seed=5)


def test_damaged_rows_are_named_by_line(tmp_path: Path) -> None:
    run(tmp_path)
    rows = rows_path(tmp_path / "mine.json")
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines[:3], "[]", *lines[4:]]) + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:4: damaged"):
        run(tmp_path)


def test_too_few_prompts_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = prompts_file(tmp_path, 10)
    with pytest.raises(DataError, match=r"10 conversations are too few.*20 more"):
        bench.calibrate(fake_pair(), [bench.Text(path, tmp_path / "mine.json", SETTING)])
    assert not rows_path(tmp_path / "mine.json").exists()


def test_a_text_file_holds_a_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("What is 2 + 2?\n\n{not json}\n", encoding="utf-8")
    contents = [prompt.messages[0]["content"] for prompt in read_prompts(path)]
    assert contents == ["What is 2 + 2?", "{not json}"]


def test_prompts_that_name_control_tokens_are_read_as_the_product_reads_them() -> None:
    messages = (Message(role="user", content=f"what does {END} mean?"),)
    device, cloud = FakeEngine(DEVICE, 4096), FakeEngine(CLOUD, 4096)
    next(shadow_run(device, cloud, [Case(1, messages)], SETTING))
    prompt = ChatEncoder(DEVICE.vocab).encode(messages)
    assert not DEVICE.vocab.end_ids & set(prompt)
    assert device.ids[: len(prompt)] == cloud.ids[: len(prompt)] == prompt


def test_a_prompt_without_room_for_a_reply_is_refused() -> None:
    device, cloud = FakeEngine(DEVICE, 8), FakeEngine(CLOUD, 8)
    path = Path(__file__).parents[2] / "common" / "data" / "tasks.jsonl"
    with pytest.raises(DataError, match="leaves no room"):
        next(shadow_run(device, cloud, read_prompts(path), SETTING))


def test_a_dialogue_is_never_on_both_sides_of_the_split() -> None:
    made = replays(40, 0.5, 0.0) + replays(40, 0.5, 0.0, seed=1)
    learnt, held_out = bench.split(made)
    sides = [{replay.conversation for replay in side} for side in (learnt, held_out)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 8
