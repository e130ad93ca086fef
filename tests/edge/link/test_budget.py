"""A cap is never passed: not by size, restart, a second process, or a clock that jumps."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.configs.config import BudgetOptions, Caps
from uhlm_edge.edge.link.budget import Budget, BudgetReached

from ...commands import run_here

NOON = 1_764_072_000.0  # of a day in 2025
DAY = 86_400.0


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def options(**day: float) -> BudgetOptions:
    return BudgetOptions.model_validate({"day": day})


def test_a_day_s_uploads_are_counted_over_restarts_and_processes(tmp_path: Path) -> None:
    file = tmp_path / "state" / "budget.json"
    first, second = (Budget(options(uploads=3), file, Clock()) for _ in range(2))
    first.spend(10, 1)
    second.spend(10, 1)
    first.spend(10, 1)
    for budget in (first, second, Budget(options(uploads=3), file, Clock())):
        with pytest.raises(BudgetReached, match=r"this day is used up \(3 uploads\)"):
            budget.spend(10, 1)
        assert budget.to_json()["day"]["uploads"] == {"spent": 3, "cap": 3}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_new_day_begins_anew_and_a_clock_set_back_does_not(tmp_path: Path) -> None:
    clock = Clock()
    budget = Budget(options(uploads=1), tmp_path / "budget.json", clock)
    budget.spend(1, 1)
    for now in (0.0, NOON - 30 * DAY, NOON - DAY, NOON):  # a board without a battery starts at 0
        clock.now = now
        with pytest.raises(BudgetReached):
            budget.spend(1, 1)
    clock.now = NOON + DAY
    budget.spend(1, 1)
    clock.now = NOON
    with pytest.raises(BudgetReached):
        budget.spend(1, 1)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"day": "2025-11-25"}', '{"day": 3}', "[" * 5000, '{"day": "x"}',
                '{"day":"2025-11-25","uploads":-1,"bytes":0,"tokens":0,"money":0}']
)  # fmt: skip
def test_a_damaged_file_does_not_count_as_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "budget.json"
    file.write_text(content, "utf-8")
    with pytest.raises(BudgetReached, match="is damaged; remove it"):
        Budget(options(uploads=3), file, Clock()).spend(1, 1)
    assert file.read_text("utf-8") == content


@given(
    caps=st.builds(Caps, uploads=st.none() | st.integers(0, 9), bytes=st.integers(0, 999),
                   tokens=st.none() | st.integers(0, 99), money=st.none() | st.floats(0, 1)),
    calls=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=20),
)  # fmt: skip
def test_no_cap_is_ever_passed_by_what_is_sent(caps: Caps, calls: list[tuple[int, int]]) -> None:
    prices = {"price_per_call": 0.01, "price_per_million_tokens": 1000.0}
    budget = Budget(BudgetOptions(session=caps, **prices), Path("never-touched"), Clock())
    sent = []
    for size, tokens in calls:
        try:
            budget.spend(size, tokens)
            sent.append((size, tokens))
        except BudgetReached:
            continue
    counts = budget.to_json()["session"]
    assert counts["uploads"]["spent"] == len(sent)
    assert counts["bytes"]["spent"] == sum(size for size, _ in sent)
    money = sum(0.01 + tokens * 0.001 for _, tokens in sent)
    assert counts["money"]["spent"] == pytest.approx(money)
    for count in counts.values():
        assert count["cap"] is None or count["spent"] <= count["cap"]


def test_a_reply_s_caps_begin_anew_with_each_reply(tmp_path: Path) -> None:
    budget = Budget(BudgetOptions(reply=Caps(bytes=100)), tmp_path / "none", Clock())
    for _ in range(3):
        budget.begin_reply()
        budget.spend(100, 1)
        with pytest.raises(BudgetReached, match=r"this reply is used up \(100 B\)"):
            budget.spend(1, 1)
    assert not (tmp_path / "none").exists()


SPENDS = """
import sys
from pathlib import Path
from uhlm_edge.configs.config import BudgetOptions
from uhlm_edge.edge.link.budget import Budget, BudgetReached
budget = Budget(BudgetOptions.model_validate({"day": {"uploads": 60}}), Path(sys.argv[1]))
sent = 0
for _ in range(50):
    try:
        budget.spend(1, 1)
        sent += 1
    except BudgetReached:
        pass
print(sent)
"""


@pytest.mark.slow
def test_two_processes_at_once_send_no_more_than_one_may(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SPENDS, str(tmp_path / "budget.json")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sent = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sum(sent) == 60


@pytest.mark.slow
def test_at_the_cap_the_text_goes_on_and_the_user_is_told_once(tmp_path: Path) -> None:
    asked = ["run", "Tell me a story about a tiger.", "--seed", "1", "--json", "--no-pipelined"]
    asked += ["--strategy", "hlm", "--temperature", "1"]
    caps = {"UHLM_BUDGET_DAY_UPLOADS": "4", "UHLM_BUDGET_PRICE_PER_CALL": "0.5"}
    uploads = []
    for _ in range(2):
        result = run_here(asked, tmp_path, more=caps)
        assert result.code == 0, result.err
        done = json.loads(result.out.splitlines()[-1])
        assert done["text"]
        assert done["finish_reason"] == "stop"
        assert done["stats"]["unverified"] > 0
        assert result.err.count("the budget of this day is used up (4 uploads)") == 1
        assert result.err.count("\n") == 1
        uploads.append(done["stats"]["budget"]["session"]["uploads"]["spent"])
        assert done["stats"]["uploads"] == uploads[-1]  # what was not sent is none
    assert uploads == [4, 0]
    assert done["stats"]["budget"]["day"]["money"] == {"spent": 2.0, "cap": None}
    assert (tmp_path / ".local/state/uhlm-edge/budget.json").exists()


def test_a_day_that_cannot_be_kept_spends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    budget = Budget(options(uploads=3), tmp_path / "file" / "state" / "budget.json", Clock())
    with pytest.raises(BudgetReached, match=r"cannot be kept \(.*: Not a directory\)"):
        budget.spend(1, 1)
    assert budget.to_json()["session"]["uploads"]["spent"] == 0


def test_what_is_told_of_it_is_what_is_known(tmp_path: Path) -> None:
    budget = Budget(BudgetOptions(session=Caps(uploads=6)), tmp_path / "none", Clock())
    for _ in range(2):
        budget.spend(760, 30)
    assert budget.lines() == [
        "budget of this reply: 2 uploads, 1,520 bytes, 60 tokens",
        "budget of this session: 2 of 6 uploads, 1,520 bytes, 60 tokens",
    ]  # its day is not kept, and a token has no price
    told = {"price_per_million_tokens": 0.5, "day": {"money": 0.2}}
    budget = Budget(BudgetOptions.model_validate(told), tmp_path / "budget.json", Clock())
    budget.spend(1_520_000, 60_000)
    assert budget.lines()[-1] == (
        "budget of this day: 1 uploads, 1,520,000 bytes, 60,000 tokens, 0.03 of 0.2 money"
    )
