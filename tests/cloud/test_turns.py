"""More devices than places: they take turns, and hardly anything is read twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from uhlm_edge.cloud.verifier import Verifier

from .devices import PROMPT, Clock, Device, TimedContext, device

PLACES = 4
WAITS = 10.0  # seconds, of a device


def answers(devices: int, seconds: float = 1.6, parked: int = 0) -> Counter[int]:
    """How many each device got that asks again at once; all read a conversation of 60 ids."""
    clock = Clock()
    context = TimedContext(clock, per_id=3e-4)
    of = Verifier(context, 500, PLACES, clock=clock, quantum=0.25, parked_bytes=parked)
    got: Counter[int] = Counter()
    free = [device(of, i, prompt=[*PROMPT * 5, i]) for i in range(devices)]
    asked: dict[int, tuple[Device, Any, list[Any]]] = {}
    while clock.now < seconds:
        for i, one in enumerate(free):
            if i not in asked:
                if len(one.ids) > 70:  # the conversation begins anew
                    one.ids, one.held = one.ids[:61], 61
                into: list[Any] = []
                request = one.request(drafts=1)
                of.scheduler.submit(one.key, request, into.append, clock.now + WAITS)
                asked[i] = one, request, into
        assert of.scheduler.step()
        for i, (one, request, into) in list(asked.items()):
            if into:
                one.hear(request, into[0])  # a reply: nobody waited in vain
                got[i] += 1
                del asked[i]
    return got


@pytest.mark.parametrize("devices", [6, 14])
def test_with_more_devices_than_places_answers_are_nearly_as_many_as_at_best(devices: int) -> None:
    peak = answers(PLACES).total()
    turns = answers(devices)
    assert turns.total() >= 0.75 * peak
    assert len(turns) == devices  # and everybody has some


def test_memory_for_those_who_made_room_makes_turns_short() -> None:
    turns = answers(8, parked=1 << 20)
    assert min(turns.values()) >= 0.5 * turns.total() / 8


def test_who_was_parked_first_stays_while_it_is_expected_back() -> None:
    """It is next, where devices take turns."""
    clock = Clock()
    context = TimedContext(clock)
    of = Verifier(context, 200, 1, clock=clock, parked_bytes=75)  # for one of them
    first, second, third = (device(of, i, prompt=[*PROMPT, i]) for i in range(3))

    def reads(one: Device) -> int:
        before = len(context.passes)
        one.ask(one.request(drafts=1))
        return sum(len(work.tokens) for works in context.passes[before:] for work in works)

    assert reads(first) == reads(second) == reads(third) == len(PROMPT) + 1
    assert reads(first) == 1
    assert reads(second) > len(PROMPT)  # it came after the first
    clock.now += 60.0
    assert reads(third) > len(PROMPT)  # in place of the second, who is parked now
    assert reads(second) == 1
