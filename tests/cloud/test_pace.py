"""Who waits for whom between two passes, by what passes have cost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from uhlm_edge.cloud.pace import Pace
from uhlm_edge.cloud.verifier import Verifier

from .devices import Clock, Device, TimedContext, device


def test_devices_that_ask_again_at_once_stay_together_in_every_pass() -> None:
    class Ticking(Clock):
        def __call__(self) -> float:
            self.now += 1e-5  # so that no wait is for ever
            return self.now

    clock = Ticking()
    context = TimedContext(clock)
    of = Verifier(context, 500, 8, clock=clock)
    devices = [device(of, i) for i in range(8)]
    for one in devices:
        one.ask(one.request(bonus=1))
    before = len(context.passes)

    async def ask_and_ask(one: Device, pause: int) -> None:
        for _ in range(10):
            for _ in range(pause):  # each comes back at a moment of its own
                await asyncio.sleep(0)
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            of.scheduler.submit(one.key, request := one.request(drafts=1), answer.set_result)
            one.hear(request, await answer)

    async def serve() -> None:
        steps = asyncio.create_task(of.driver.run())
        await asyncio.gather(*(ask_and_ask(one, i) for i, one in enumerate(devices)))
        of.driver.close()
        await steps

    asyncio.run(serve())
    assert len(context.passes) - before <= 14  # ten of eight calls, and some to find together


def test_calls_go_without_those_who_do_not_come_back() -> None:
    pace = Pace()
    pace.answered(10.0, 2)
    quiet = pace.patience()
    assert 0.0 < 2 * quiet <= pace.short_pass
    never, soon = float("-inf"), 10.0 + 0.9 * quiet
    assert pace.left(quiet, 10.0, never, 10.0) == pytest.approx(quiet)
    assert pace.left(quiet, 10.0, never, 10.0 + 1.1 * quiet) < 0.0  # nobody came
    assert pace.left(quiet, 10.0, soon, 10.0 + 1.1 * quiet) > 0.0  # they are coming
    assert pace.left(quiet, 10.0, 99.0, 10.0 + 2.1 * quiet) < 0.0  # enough is enough
    for _ in range(20):
        pace.waited(0.0)
    assert sum(pace.patience() > 0.0 for _ in range(99)) == 3  # a try now and then


def test_those_who_come_one_after_another_are_waited_for_longer_than_those_who_do_not() -> None:
    """Each within the time that is waited for one; all of them in more than that."""

    class Ticking(Clock):
        def __call__(self) -> float:
            self.now += 1e-6
            return self.now

    clock = Ticking()
    of = Verifier(context := TimedContext(clock), 500, 8, clock=clock)
    devices = [device(of, i) for i in range(4)]
    for one in devices:
        one.ask(one.request(bonus=1))
    requests = [one.request(drafts=1) for one in devices]
    quiet = of.scheduler.pace.patience()
    before = len(context.passes)
    answered: list[Any] = []

    async def serve() -> None:
        steps = asyncio.create_task(of.driver.run())
        await asyncio.sleep(0)  # nobody is there yet, and nobody is forgotten
        for one, request in zip(devices, requests, strict=True):
            of.scheduler.submit(one.key, request, answered.append)
            clock.now += 0.45 * quiet
            await asyncio.sleep(0)
        of.driver.close()
        await steps

    asyncio.run(serve())
    assert len(answered) == 4
    assert [len(works) for works in context.passes[before:]] == [4]


def test_where_ids_are_dear_prompts_ride_along_in_each_other_pass_only() -> None:
    clock = Clock()
    context = TimedContext(clock, per_id=5e-4)
    of = Verifier(context, 2000, 40, clock=clock)
    short, idle = device(of, 0), 0.001 + 5e-4
    short.ask(short.request(bonus=1))
    for i in range(1, 20):
        prompt = device(of, i, prompt=[i] * 400)
        of.scheduler.submit(prompt.key, prompt.request(), lambda _: None)
    of.scheduler.step()  # the first prompt has the pass for itself: nobody else was there
    waits = []
    for _ in range(160):
        begun = clock.now
        into: list[Any] = []
        of.scheduler.submit(short.key, request := short.request(drafts=1), into.append)
        while not into:
            of.scheduler.step()
        short.hear(request, into[0])
        waits.append(clock.now - begun)
    assert of.scheduler.open_calls > 0  # the prompts are still being read
    assert sum(wait <= 1.01 * idle for wait in waits) >= 79
    assert max(waits[100:]) <= 3.1 * idle


def test_what_ids_cost_is_not_learnt_from_passes_that_are_alike() -> None:
    pace = Pace()
    pace.passed(0.001, 1, is_short=True)
    pace.passed(0.101, 1001, is_short=False)  # a tenth of a millisecond an id
    for slow in range(300):  # another program takes the processor now and then
        pace.passed(0.001 + 0.05 * (slow % 7 == 0), 1 + (slow % 7 != 0), is_short=True)
    assert 0.9e-4 < pace.per_id < 1.1e-4


def test_slices_are_as_large_as_passes_with_them_may_be_long() -> None:
    pace = Pace()
    pace.passed(0.001, 1, is_short=True)
    assert pace.slice(2048, 0, now=100.0) == 2048  # nobody else is there
    for _ in range(60):
        given = pace.slice(2048, 1, now=100.0)
        assert given > 0
        pace.passed(0.001 + 1e-5 * given, 1 + given, is_short=False)
        assert pace.slice(2048, 1, now=100.0) == 0  # each other pass
        pace.passed(0.001, 1, is_short=True)
    assert 120 <= given <= 180  # 2.5 times a short one with 150 ids
    given = pace.slice(2048, 1, now=100.0)
    pace.passed(9.9, 1, is_short=False)  # the end of a prompt tells nothing of a whole slice
    assert pace.slice(2048, 0, now=100.0) == given


def test_passes_that_something_else_held_up_do_not_make_slices_tiny() -> None:
    pace = Pace()
    pace.passed(0.001, 1, is_short=True)
    given = []
    for i in range(300):
        given.append(pace.slice(2048, 1, now=100.0))
        slow = 0.1 if i % 4 == 3 else 0.0  # each fourth, by a hundred times
        pace.passed(slow + 0.001 + 1e-5 * given[-1], 1 + given[-1], is_short=False)
        pace.slice(2048, 1, now=100.0)
        pace.passed(0.001, 1, is_short=True)
    assert min(given[100:]) >= 40  # of 150 where nothing does


def test_changes_of_place_take_no_more_than_their_share_of_the_time() -> None:
    pace = Pace()
    assert pace.may_swap(100.0)
    pace.swapped(0, 0.1)
    assert not pace.may_swap(100.4)
    assert pace.may_swap(100.6)
    pace.swapped(0, 1e9)  # and the debt of a moment is soon paid
    assert not pace.may_swap(102.0)
    assert pace.may_swap(103.2)
