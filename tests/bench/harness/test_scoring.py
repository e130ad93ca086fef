"""What the benchmark's numbers mean, on replies made by hand."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from uhlm_edge.bench.harness.scoring import (
    METRICS,
    Outcome,
    cosine,
    exact,
    half_width,
    seed_row,
    summary,
    t_quantile,
    token_f1,
)
from uhlm_edge.bench.harness.shadow_verifier import ShadowVerifier
from uhlm_edge.bench.strategies.claims import PUBLISHED, claim_rows
from uhlm_edge.bench.strategies.compare import count_reply, shadow_counts
from uhlm_edge.edge.policy.policies import UncertainAbove
from uhlm_edge.edge.policy.strategy import Strategy, make_strategy
from uhlm_edge.lm.targets import Weighted

from ...edge.pairs import PLAIN, Reference, pair
from ...fakes import CLOUD, FakeEngine

PROMPT = [104, 105]


def test_an_answer_is_right_when_it_equals_after_stripping() -> None:
    assert exact(" Lima. \n", "Lima.") == 1.0
    assert exact("lima.", "Lima.") == 0.0


@pytest.mark.parametrize(
    ("reply", "reference", "f1"),
    [
        ("At two pm.", "at Two PM", 1.0),
        ("a b c d", "a b", 2 * 2 / 6),
        ("a a a", "a", 2 * 1 / 4),
        ("x", "y", 0.0),
        ("", "y", 0.0),
        ("...", "!", 1.0),  # neither has a word
    ],
)
def test_f1_counts_words_as_often_as_both_have_them(reply: str, reference: str, f1: float) -> None:
    assert token_f1(reply, reference) == pytest.approx(f1)


def test_cosine_of_nothing_is_nothing() -> None:
    zero, one = np.zeros(2, dtype=np.float32), np.array([0, 2], dtype=np.float32)
    assert cosine(one, 3 * one) == pytest.approx(1.0)
    assert cosine(zero, one) == 0.0


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)],
)
def test_quantiles_of_student_s_t_are_those_of_the_tables(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=1e-5)


def test_an_interval_needs_two_seeds() -> None:
    assert half_width([0.5]) is None
    assert half_width([0.4, 0.6]) == pytest.approx(12.7062 * 0.1, abs=1e-4)
    assert half_width([0.5, 0.5, 0.5]) == 0.0


OUTCOME = Outcome(
    line=1, tokens=10, seconds=0.5, device_seconds=0.1, drafts=10, calls=3, audits=1, from_llm=2,
    skipped=8, judged=2, rejected=1, known=10, beta=1.0, skipped_beta=0.4, llm_passes=3,
    llm_positions=30, device_passes=11, device_positions=25, bodies=[80, 100, 20],
    requests=[280, 300, 220], payload_down=60, wire_down=240, exact=1.0, text="a",
)  # fmt: skip


def test_metrics_are_totals_over_totals() -> None:
    other = replace(
        OUTCOME, tokens=30, seconds=1.5, skipped=30, from_llm=0, calls=0, audits=0, judged=0,
        rejected=0, known=30, beta=0.2, skipped_beta=0.2, bodies=[], requests=[], payload_down=0,
        wire_down=0, llm_passes=0, llm_positions=0, exact=0.0,
    )  # fmt: skip
    row = seed_row([OUTCOME, other])
    assert row["accuracy"] == 0.5
    assert row["transmission_rate"] == 2 / 40
    assert (row["calls"], row["audits"]) == (3, 1)
    assert row["risk"] == pytest.approx(0.6 / 40)
    assert row["true_skip_rate"] == pytest.approx(1 - 0.6 / 38)
    assert row["rejection_rate"] == 1 / 2
    assert row["oracle_rate"] == pytest.approx(1.2 / 40)
    assert (row["llm_passes"], row["llm_positions"]) == (3, 30)
    assert row["payload_bytes"] == 260 / 40
    assert row["wire_bytes"] == 1040 / 40
    assert row["tokens_per_s"] == 40 / 2.0


def test_what_was_not_measured_is_null_and_never_zero() -> None:
    unseen = replace(OUTCOME, known=None, llm_passes=None, requests=None, wire_down=None)
    row = seed_row([unseen])
    for name in ("risk", "true_skip_rate", "oracle_rate", "llm_passes", "wire_bytes"):
        assert row[name] is None
    nobody_asked = replace(OUTCOME, judged=0, rejected=0)
    assert seed_row([nobody_asked])["rejection_rate"] is None


def test_a_row_has_each_metric_with_its_interval() -> None:
    row = summary("uhlm@0.073", {1: [OUTCOME], 2: [replace(OUTCOME, exact=0.0)]})
    assert next(iter(row)) == "strategy"
    assert all(name in row and f"{name}_ci" in row for name in METRICS)
    assert row["accuracy"] == 0.5
    assert row["accuracy_ci"] == pytest.approx(12.7062 * 0.5, abs=1e-3)
    assert (row["n"], row["tokens"], row["seeds"]) == (1, 20, 2)
    assert row["upload_body_median"] == 80.0
    assert summary("one", {1: [OUTCOME]})["accuracy_ci"] is None


def test_outcomes_survive_json() -> None:
    assert Outcome.from_json(asdict(OUTCOME)) == OUTCOME
    with pytest.raises(TypeError):
        Outcome.from_json({**asdict(OUTCOME), "surprise": 1})


def test_counts_of_hlm_and_local_and_cloud() -> None:
    with pair() as both:
        hlm = both.loop(make_strategy("hlm"), PROMPT, seed=3)
        list(hlm.events())
        counted = count_reply(7, "text", hlm)
        rejected = sum(token.source == "cloud" for token in hlm.tokens)
        assert rejected > 0
        assert (counted.tokens, counted.from_llm, counted.skipped) == (20, 20, 0)
        assert (counted.judged, counted.rejected) == (20, rejected)

        local = both.loop(make_strategy("local"), PROMPT, seed=3, offline=True)
        list(local.events())
        counted = count_reply(7, "text", local)
        assert (counted.from_llm, counted.skipped, counted.judged, counted.calls) == (0, 20, 0, 0)

        cloud = both.loop(make_strategy("cloud"), PROMPT, seed=3)
        list(cloud.events())
        counted = count_reply(7, "text", cloud)
        assert (counted.from_llm, counted.skipped, counted.judged) == (20, 0, 0)


def test_the_ensemble_s_proposals_are_not_the_device_s_drafts() -> None:
    target = Weighted(weight=0.5)
    with pair() as both:
        loop = both.loop(Strategy("e", make_strategy("ensemble").policy, "all", target, 1, True, 2),
                         PROMPT, seed=1)  # fmt: skip
        list(loop.events())
        counted = count_reply(1, "", loop)
        assert counted.skipped == 0
        assert counted.judged < counted.tokens


@pytest.mark.parametrize("strategy", ["local", "hlm", "uhlm", "spec"])
def test_shadow_verification_finds_the_betas_of_the_drafts(strategy: str) -> None:
    with pair(n_ctx=64) as both:
        loop = both.loop(make_strategy(strategy, threshold=0.3, draft_limit=3), PROMPT, seed=5)  # type: ignore[arg-type]
        list(loop.events())
        ids = [token.id for token in loop.tokens]
        onlooker = ShadowVerifier(FakeEngine(CLOUD), PLAIN)
        betas = onlooker.betas(PROMPT, ids, loop.text.proposed)
    reference = Reference(PROMPT, 5)
    assert betas.keys() == set(range(len(ids)))
    for i, beta in betas.items():
        assert beta == pytest.approx(reference.beta(ids[:i]), abs=1e-12)


def test_a_draft_that_was_thrown_away_for_the_llm_s_token_risks_nothing() -> None:
    strategy = Strategy("reward", UncertainAbove(0.3), scope="none", bonus=1)
    with pair() as both:
        loop = both.loop(strategy, PROMPT, seed=5)
        list(loop.events())
    supplied = {token.index for token in loop.tokens if token.source == "cloud"}
    assert supplied
    assert supplied <= loop.text.proposed.keys()
    betas = dict.fromkeys(range(len(loop.tokens)), 0.25)
    counted = shadow_counts(count_reply(1, "", loop), loop, betas)
    assert counted.skipped == len(loop.tokens) - len(supplied)
    assert counted.skipped_beta == pytest.approx(0.25 * counted.skipped)
    assert counted.beta == pytest.approx(0.25 * len(loop.tokens))


def test_nothing_is_read_in_shadow_where_the_device_drafted_nothing() -> None:
    engine = FakeEngine(CLOUD)
    assert ShadowVerifier(engine, PLAIN).betas(PROMPT, [1, 2, 3], {}) == {}
    assert engine.widths == []


def test_claims_are_quotients_with_hlm_and_with_the_llm() -> None:
    def row(
        strategy: str, accuracy: float, rate: float, passes: int, speed: float
    ) -> dict[str, object]:
        return {
            "strategy": strategy, "accuracy": accuracy, "transmission_rate": rate,
            "llm_passes": passes, "tokens_per_s": speed,
        }  # fmt: skip

    rows = [
        row("local", 0.8, 0.0, 0, 900.0), row("cloud", 0.9, 1.0, 100, 50.0),
        row("hlm", 0.9, 1.0, 100, 40.0), row("uhlm@0.073", 0.81, 0.1, 10, 200.0),
        row("spec", 0.9, 1.0, 30, 100.0),
    ]  # fmt: skip
    published, ours = claim_rows(rows)
    assert published == PUBLISHED
    assert ours["strategy"] == "uhlm@0.073"
    assert ours["fewer_uploads"] == ours["fewer_llm_passes"] == pytest.approx(0.9)
    assert ours["accuracy_of_llm"] == pytest.approx(0.9)
    assert ours["hlm_throughputs"] == pytest.approx(5.0)
    assert claim_rows(rows[:2]) == []
