"""Who waits for whom between two passes, by what passes have cost."""

from __future__ import annotations

import asyncio
from typing import Any

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
        one.ask(one.request(supply=1))
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
