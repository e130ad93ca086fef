"""Made-up prompts: the same for one seed, none that is excluded, and answers that are right."""

from __future__ import annotations

import json
import random
import re

import pytest

from uhlm_edge.experiments.data_dialogues import make_dialogues, make_opening
from uhlm_edge.experiments.data_tasks import KINDS, make_tasks
from uhlm_edge.experiments.task_facts import CAPITALS, ELEMENTS

from ..fakes import CLOUD, FakeEngine


def prompt(row: dict[str, object]) -> str:
    messages = row["messages"]
    assert isinstance(messages, list)
    return str(messages[-1]["content"])


def test_the_same_seed_gives_the_same_tasks() -> None:
    assert list(make_tasks(50, 3)) == list(make_tasks(50, 3))
    assert list(make_tasks(50, 3)) != list(make_tasks(50, 4))


def test_no_task_comes_twice_and_none_is_excluded() -> None:
    first = {prompt(row) for row in make_tasks(400, 1)}
    second = {prompt(row) for row in make_tasks(400, 1, exclude=first)}
    assert len(first) == len(second) == 400
    assert not first & second


def test_every_kind_occurs() -> None:
    assert {row["kind"] for row in make_tasks(300, 2)} == set(KINDS)


@pytest.mark.parametrize("kind", ["arithmetic", "story"])
def test_every_equation_of_an_answer_holds(kind: str) -> None:
    rng = random.Random(5)
    for _ in range(300):
        _, answer = KINDS[kind](rng)
        found = re.findall(r"(\d+) ([-+\u00d7\u00f7]) (\d+) = (\d+)", answer)
        assert found
        for left, sign, right, value in found:
            x, y = int(left), int(right)
            made = {"+": x + y, "-": x - y, "\u00d7": x * y, "\u00f7": x / max(y, 1)}[sign]
            assert made == int(value) >= 0


def test_a_sorted_list_is_sorted() -> None:
    rng = random.Random(6)
    for _ in range(300):
        asked, answer = KINDS["order"](rng)
        if asked.startswith("Sort"):
            numbers = [int(n) for n in re.findall(r"\d+", asked)]
            assert [int(n) for n in re.findall(r"\d+", answer)] == sorted(numbers)


def test_a_command_is_json_that_names_what_was_asked() -> None:
    rng = random.Random(7)
    for _ in range(100):
        asked, answer = KINDS["device"](rng)
        command = json.loads(answer)
        assert command["device"] in asked
        assert command["room"] in asked


@pytest.mark.parametrize(("country", "capital"), [("France", "Paris"), ("Brazil", "Brasília")])
def test_capitals_are_known(country: str, capital: str) -> None:
    assert CAPITALS[country] == capital


@pytest.mark.parametrize(("number", "symbol"), [(1, "H"), (26, "Fe"), (79, "Au"), (86, "Rn")])
def test_elements_are_in_order(number: int, symbol: str) -> None:
    assert ELEMENTS[number - 1][1] == symbol
    assert len(ELEMENTS) == 86


def test_a_dialogue_goes_on_from_an_opening_that_is_not_excluded() -> None:
    openings = {make_opening(random.Random(seed)) for seed in range(30)}
    rows = list(make_dialogues(FakeEngine(CLOUD, 4096), 20, 0, turns=2, exclude=openings))
    assert rows == list(make_dialogues(FakeEngine(CLOUD, 4096), 20, 0, turns=2, exclude=openings))
    assert {row["conversation"] for row in rows} == set(range(20))
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert row["messages"][0]["content"] not in openings
