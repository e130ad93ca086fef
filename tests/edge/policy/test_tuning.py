"""Which threshold, head and policy a conversation gets from options and calibration."""

from __future__ import annotations

from pathlib import Path

import pytest

from uhlm_edge.common.errors import ConfigError, DataError
from uhlm_edge.configs.config import Config, StrategyOptions
from uhlm_edge.edge.events import SkippedVerdict
from uhlm_edge.edge.policy.adaptive import Adaptive, Learning
from uhlm_edge.edge.policy.calibration import SHIPPED, ModelKey, load, model_digest
from uhlm_edge.edge.policy.policies import UncertainAbove
from uhlm_edge.edge.policy.tuning import (
    PUBLISHED_THRESHOLD,
    Tuning,
    find_tuning,
    needs_calibration,
    strategy_of,
    threshold_of,
)
from uhlm_edge.models import shipped as models

TASKS = Tuning(load(SHIPPED / "tasks.json"), SHIPPED)
DIALOGUES = Tuning(load(SHIPPED / "dialogues.json"), SHIPPED)
DEVICE = TASKS.calibration.device
CLOUD = TASKS.calibration.cloud


def config(**strategy: object) -> Config:
    return Config.model_validate({"strategy": strategy})


def environment(folder: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}


def test_a_number_needs_no_calibration() -> None:
    options = StrategyOptions(threshold=0.2)
    assert threshold_of(options) == 0.2
    assert not needs_calibration(options)


def test_unset_is_the_risk_threshold_of_the_calibration_else_the_published_one() -> None:
    options = StrategyOptions()
    assert threshold_of(options) == PUBLISHED_THRESHOLD
    assert threshold_of(options, TASKS) == TASKS.calibration.laws["sampled"].risk


def test_a_fit_in_the_configuration_goes_before_a_calibration() -> None:
    options = StrategyOptions(threshold="averse", slope=0.82, intercept=-0.06, delta=0.3)
    assert threshold_of(options, TASKS) == pytest.approx(0.0732, abs=1e-4)
    prone = options.model_copy(update={"threshold": "prone"})
    assert threshold_of(prone) == pytest.approx((0.3 + 0.06) / 0.82)


@pytest.mark.parametrize("choice", ["averse", "prone", "risk"])
def test_a_named_threshold_without_a_calibration_is_refused(choice: str) -> None:
    with pytest.raises(ConfigError, match="calibrat"):
        threshold_of(StrategyOptions.model_validate({"threshold": choice}))


def test_a_fit_that_says_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="slope"):
        threshold_of(StrategyOptions(threshold="averse", slope=-0.1, intercept=0.0))


def test_where_no_threshold_can_be_trusted_it_adapts(tmp_path: Path) -> None:
    assert DIALOGUES.advice(StrategyOptions()) is not None
    strategy = strategy_of(StrategyOptions(), DIALOGUES, environment(tmp_path))
    assert isinstance(strategy.policy, Adaptive)
    assert strategy.scope == "last"
    fixed = strategy_of(StrategyOptions(threshold=0.1), DIALOGUES, environment(tmp_path))
    assert fixed.policy.threshold == 0.1


def test_uhlm_learns_for_free_unless_it_is_told_a_threshold(tmp_path: Path) -> None:
    unset = strategy_of(StrategyOptions(), TASKS, environment(tmp_path)).policy
    assert isinstance(unset, Learning)
    risk = TASKS.calibration.laws["sampled"].risk
    assert risk is not None
    for level in range(21):  # it asks about the same tokens as the calibrated threshold does
        assert (level / 20 > unset.threshold) is (level / 20 > risk)
    assert unset.audit_after is None
    assert isinstance(strategy_of(StrategyOptions()).policy, Learning)
    for options in (StrategyOptions(threshold="risk"), StrategyOptions(name="spec")):
        policy = strategy_of(options, TASKS, environment(tmp_path)).policy
        assert isinstance(policy, UncertainAbove)


def test_what_was_learnt_for_free_is_forgotten_so_that_a_seed_gives_the_same_text(
    tmp_path: Path,
) -> None:
    first = strategy_of(StrategyOptions(), TASKS, environment(tmp_path)).policy
    first.observe(SkippedVerdict(0, 0.0, 1.0))
    first.save()
    again = strategy_of(StrategyOptions(), TASKS, environment(tmp_path)).policy
    fresh = strategy_of(StrategyOptions(), TASKS, environment(tmp_path)).policy.threshold
    assert again.threshold == fresh != first.threshold


def test_adaptive_goes_on_from_where_the_last_run_ended(tmp_path: Path) -> None:
    options = StrategyOptions(threshold="adaptive")
    first = strategy_of(options, TASKS, environment(tmp_path)).policy
    assert isinstance(first, Adaptive)
    first.threshold = 0.31
    first.save()
    assert strategy_of(options, TASKS, environment(tmp_path)).policy.threshold == 0.31


def test_the_shipped_pair_finds_its_calibration_for_tasks(tmp_path: Path) -> None:
    path = models.path_of("demo-slm")
    device = ModelKey(
        name="demo-slm.Q4_K_M", vocabulary=DEVICE.vocabulary, digest=model_digest(path)
    )
    found = find_tuning(config(), device, CLOUD, environment(tmp_path))
    assert found is not None
    assert found.calibration.name == "tasks"
    unknown = find_tuning(config(), device, None, environment(tmp_path))
    assert unknown is not None


def test_a_calibration_of_another_pair_is_refused_by_name(tmp_path: Path) -> None:
    other = ModelKey(name="other", vocabulary=DEVICE.vocabulary)
    assert find_tuning(config(), other, CLOUD, environment(tmp_path)) is None
    with pytest.raises(DataError, match="other"):
        find_tuning(config(calibration="tasks"), other, CLOUD, environment(tmp_path))
    with pytest.raises(ConfigError, match="tasks"):
        find_tuning(config(calibration="nonsense"), DEVICE, CLOUD, environment(tmp_path))


def test_the_head_of_a_calibration_is_there() -> None:
    assert TASKS.head(StrategyOptions()).metadata
    with pytest.raises(ConfigError, match="sampled"):
        TASKS.head(StrategyOptions(estimator="expected"))
