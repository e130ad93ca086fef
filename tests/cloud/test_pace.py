"""Who waits for whom between two passes, by what passes have cost."""

from __future__ import annotations

import asyncio
from typing import Any

from uhlm_edge.cloud.pace import Pace
from uhlm_edge.cloud.verifier import Verifier

from ..fakes import FakeContext
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
        steps = asyncio.create_task(of.scheduler.run())
        await asyncio.gather(*(ask_and_ask(one, i) for i, one in enumerate(devices)))
        of.scheduler.close()
        await steps

    asyncio.run(serve())
    assert len(context.passes) - before <= 14  # ten of eight calls, and some to find together


def test_calls_go_without_those_who_do_not_come_back() -> None:
    clock = Clock()
    of = Verifier(FakeContext(), 500, 8, clock=clock)
    patience = of.scheduler.pace.patience
    of.scheduler.pace.answered(clock.now, 2)
    assert 0.0 < patience(clock.now) < of.scheduler.pace.short_pass
    assert patience(clock.now + 1.0) == 0.0  # they have been waited for
    for _ in range(20):
        of.scheduler.pace.waited(0.0)
    assert sum(patience(clock.now) > 0.0 for _ in range(99)) == 3  # a try now and then


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


def test_slices_grow_while_passes_with_them_are_quick_and_are_halved_when_one_is_not() -> None:
    pace = Pace()
    pace.passed(0.001, 1, is_short=True)
    assert pace.slice(2048, 0, now=100.0) == 2048  # nobody else is there
    first = pace.slice(2048, 1, now=100.0)
    pace.passed(1.0, 1 + first, is_short=False)
    assert pace.slice(2048, 1, now=100.0) == 0  # each other pass
    pace.passed(0.001, 1, is_short=True)
    second = pace.slice(2048, 1, now=100.0)
    assert second == first // 2
    pace.passed(0.002, 1 + second, is_short=False)
    assert second < pace.slice(2048, 0, now=100.0) <= 2 * second
    pace.passed(9.9, 1, is_short=False)  # the end of a prompt tells nothing of a whole slice
    assert second < pace.slice(2048, 0, now=100.0) <= 2 * second
