"""What is done while the model works: with many calls, answers for half of the devices."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from uhlm_edge.cloud.call import Inbox
from uhlm_edge.cloud.pace import Pace
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.lm.engines.protocol import Logits, Work

from ..fakes import FakeContext
from .devices import Device, device, expected

WAIT = 60.0  # seconds, for a thread that is broken


class Fleeting(FakeContext):
    """Rows last as long as is promised, and no longer: then they are not numbers."""

    def __init__(self) -> None:
        super().__init__(n_ctx=20_000, n_sequences=40)
        self._given: list[tuple[bool, list[Logits]]] = []

    def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
        for age, (kept, given) in enumerate(reversed(self._given)):
            for rows in given if age >= kept else ():
                rows.fill(np.nan)
        blocks = super().decode(works, keep)
        self._given = [*self._given[-2:], (keep, blocks)]
        return blocks


def always_ahead(of: Verifier) -> None:
    of.scheduler.pace.is_ahead = lambda n_open: n_open > 1  # type: ignore[method-assign]


async def ask(of: Verifier, one: Device, drafts: int) -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    request = one.request(drafts=drafts, bonus=1)
    wanted = expected(one, request)
    of.scheduler.submit(one.key, request, answer.set_result)
    reply = one.hear(request, await answer)
    assert (reply.accepted, reply.tokens) == wanted


def test_devices_that_go_in_halves_are_answered_as_each_alone() -> None:
    of = Verifier(Fleeting(), 500, 32)
    always_ahead(of)

    async def chat(one: Device, drafts: int) -> None:
        for turn in range(6):
            await ask(of, one, 1 + (drafts + turn) % 4)

    async def serve() -> None:
        steps = asyncio.create_task(of.driver.run())
        await asyncio.gather(*(chat(device(of, i), i) for i in range(16)))
        of.driver.close()
        await steps

    asyncio.run(serve())


def test_devices_that_ask_all_at_once_are_split_and_none_is_left_out() -> None:
    context = Fleeting()
    of = Verifier(context, 500, 32)
    always_ahead(of)
    asked = [0] * 16

    async def chat(i: int) -> None:
        one = device(of, i)
        await ask(of, one, 1)  # the prompt
        for _ in range(10):
            await ask(of, one, 2)
            asked[i] += 1
            assert max(asked) - min(asked) <= 3

    async def serve() -> None:
        steps = asyncio.create_task(of.driver.run())
        await asyncio.gather(*(chat(i) for i in range(16)))
        of.driver.close()
        await steps

    asyncio.run(serve())
    widths = sorted(len(works) for works in context.passes)
    assert widths[len(widths) // 2] == 8


def test_half_of_the_devices_are_answered_while_the_model_works_for_the_others() -> None:
    first_waits, second_came, answered = threading.Event(), threading.Event(), threading.Event()

    class Watched(Fleeting):
        def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
            is_first = not self.passes
            blocks = super().decode(works, keep)
            if is_first:
                first_waits.set()
                assert second_came.wait(WAIT)
            else:
                assert answered.wait(WAIT), "nobody is answered during a pass"
            return blocks

    of = Verifier(Watched(), 500, 32)
    always_ahead(of)

    async def first(one: Device) -> None:
        await ask(of, one, 2)
        answered.set()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        steps = asyncio.create_task(of.driver.run())
        calls = [asyncio.create_task(first(device(of, i))) for i in range(4)]
        assert await loop.run_in_executor(None, first_waits.wait, WAIT)
        calls += [asyncio.create_task(ask(of, device(of, 4 + i), 2)) for i in range(4)]
        await asyncio.sleep(0)
        second_came.set()
        await asyncio.gather(*calls)
        of.driver.close()
        await steps

    asyncio.run(serve())


def test_a_device_that_hangs_up_before_it_is_given_its_rows_costs_the_others_nothing() -> None:
    of = Verifier(Fleeting(), 500, 32)
    always_ahead(of)
    outcomes: list[Any] = []

    async def leave(one: Device) -> None:
        call = of.scheduler.submit(one.key, one.request(drafts=3, bonus=1), outcomes.append)
        await asyncio.sleep(0)
        call.gone = True

    async def serve() -> None:
        steps = asyncio.create_task(of.driver.run())
        for turn in range(4):
            leaving = (leave(device(of, 20 + 4 * turn + i)) for i in range(3))
            staying = (ask(of, device(of, i), 3) for i in range(8))
            await asyncio.gather(*staying, *leaving)
        of.driver.close()
        await steps

    asyncio.run(serve())
    assert len(outcomes) == 12


def test_calls_go_in_halves_once_what_is_done_around_passes_outweighs_what_each_costs() -> None:
    pace = Pace()
    for _ in range(50):
        pace.passed(0.010, 8, is_short=True)
        pace.passed(0.020, 108, is_short=False)  # .1 ms an id: 9.2 ms whatever is in a pass
        pace.around(0.008, 16)  # half a millisecond a call
    assert not pace.is_ahead(16)
    assert any(pace.is_ahead(32) for _ in range(2))
    chosen = [pace.is_ahead(32) for _ in range(320)]
    assert 300 <= sum(chosen) < 320  # now and then not: to see what lies between passes


def test_time_without_a_call_says_nothing_of_what_is_done_around_passes() -> None:
    pace = Pace()
    pace.around(0.001, 2)
    pace.around(-float("inf"), 2)
    assert not pace.is_ahead(1)
    pace.passed(0.001, 1, is_short=True)
    assert pace.is_ahead(1000)


def test_a_call_alone_has_no_other_half() -> None:
    pace = Pace()
    pace.passed(0.001, 1, is_short=True)
    pace.around(0.002, 1)
    assert pace.is_ahead(2)
    assert not pace.is_ahead(1)


def test_what_another_thread_puts_in_wakes_whoever_listens() -> None:
    inbox: Inbox[int] = Inbox()

    async def listen() -> list[int]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.0, threading.Thread(target=inbox.put, args=(1,)).start)
        await inbox.listen(WAIT)
        return list(inbox.drain())

    assert asyncio.run(listen()) == [1]


def test_what_was_put_in_before_is_not_waited_for() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    asyncio.run(asyncio.wait_for(inbox.listen(WAIT), WAIT / 2))
    assert list(inbox.drain()) == [1]
