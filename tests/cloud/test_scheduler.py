"""Many calls in one context: who goes together, who waits for whom, who makes room."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.errors import DeadlineExceeded
from uhlm_edge.common.worker import Closed, Full
from uhlm_edge.lm.engines.protocol import Logits, Work
from uhlm_edge.wire.messages import Conflict, Reply, Request

from ..fakes import FakeContext
from .devices import PROMPT, Clock, Device, TimedContext, device, expected

LONG = [i % 250 for i in range(400)]


def submit(one: Device, request: Request, into: list[Any], **more: Any) -> Any:
    return one.verifier.scheduler.submit(one.key, request, into.append, **more)


def run(of: Verifier) -> None:
    while of.scheduler.step():
        pass


def test_calls_that_wait_share_one_pass() -> None:
    context = FakeContext()
    of = Verifier(context, 200, 8)
    devices = [device(of, i) for i in range(8)]
    for one in devices:
        one.ask(one.request(bonus=1))
    before = len(context.passes)
    answers: list[list[Reply]] = [[] for _ in devices]
    for one, into in zip(devices, answers, strict=True):
        submit(one, one.request(drafts=2), into)
    run(of)
    assert [len(works) for works in context.passes[before:]] == [8]
    assert all(len(into) == 1 for into in answers)


def test_calls_that_need_no_pass_are_all_answered_at_once_however_dear_places_are() -> None:
    of = Verifier(FakeContext(), 200, 1, parked_bytes=1 << 20, clock=Clock())
    devices = [device(of, i) for i in range(4)]
    for one in devices:
        one.ask(one.request())
    of.scheduler.pace.swapped(0, 1.0)  # a second is owed, and the clock stands still
    answers: list[list[Reply]] = [[] for _ in devices]
    for one, into in zip(devices, answers, strict=True):
        submit(one, one.request(), into)
    run(of)
    assert all(len(into) == 1 for into in answers)


def test_a_short_call_never_waits_for_more_than_one_slice_of_a_prompt() -> None:
    clock = Clock()
    context = TimedContext(clock)
    of = Verifier(context, 2000, 40, clock=clock)
    short = device(of, 0)
    short.ask(short.request(bonus=1))
    waits = []
    prompts = [device(of, i, prompt=LONG) for i in range(1, 20)]
    for one in prompts:
        submit(one, one.request(), [])
    of.scheduler.step()  # the first prompt has the pass for itself: nobody else was there
    for _ in range(40):
        begun = clock.now
        into: list[Any] = []
        submit(short, request := short.request(drafts=1), into)
        while not into:
            of.scheduler.step()
        short.hear(request, into[0])
        waits.append(clock.now - begun)
    assert of.scheduler.open_calls > 0  # the prompts are still being read
    idle = 0.001 + 1e-4
    assert max(waits[20:]) <= 4 * idle


def test_rows_beyond_what_a_pass_holds_come_in_several() -> None:
    context = FakeContext(max_rows=4, n_batch=8)
    of = Verifier(context, 200, 8)
    one = device(of, 1)
    request = one.request(drafts=3, skipped=9, bonus=2)
    wanted = expected(one, request)
    reply = one.ask(request)
    assert (reply.accepted, reply.tokens) == wanted
    assert len(reply.betas) == 9 + min(3, reply.accepted + 1)


def test_one_key_with_many_prompts_does_not_keep_another_waiting() -> None:
    context = FakeContext(n_ctx=20_000, n_sequences=40, n_batch=100)
    of = Verifier(context, 2000, 40)
    many = [device(of, i, "greedy", LONG) for i in range(20)]
    for one in many:
        submit(one, one.request(), [])
    of.scheduler.step()
    other = device(of, 99, "modest", LONG)
    into: list[Any] = []
    submit(other, other.request(), into)
    before = len(context.passes)
    while not into:
        of.scheduler.step()
    assert len(context.passes) - before <= 9  # 400 ids in passes of 100, each other one
    assert of.scheduler.open_calls >= 18


@pytest.mark.parametrize("why", ["deadline", "hung up", "deadline while it runs"])
def test_a_call_that_nobody_waits_for_costs_no_further_pass(why: str) -> None:
    clock = Clock()
    context = TimedContext(clock, n_batch=50)
    of = Verifier(context, 2000, 8, clock=clock)
    one = device(of, 1, prompt=LONG)
    into: list[Any] = []
    call = submit(one, one.request(drafts=1), into, deadline=clock.now + 0.05)
    if why == "deadline while it runs":
        of.scheduler.step()
    if why == "hung up":
        call.gone = True
    else:
        clock.now += 1.0
    passes = len(context.passes)
    run(of)
    assert len(context.passes) == passes
    assert [type(outcome) for outcome in into] == [DeadlineExceeded]
    reply = one.ask(request := one.request(drafts=1, start=0))  # and the session is whole
    assert reply.held >= len(request.tokens) - 1


def test_the_queue_has_an_end_and_a_stop_answers_what_is_in_it() -> None:
    of = Verifier(FakeContext(), 200, 8, queue=2)
    devices = [device(of, i) for i in range(3)]
    into: list[Any] = []
    for one in devices[:2]:
        submit(one, one.request(drafts=1), into)
    with pytest.raises(Full):
        submit(devices[2], devices[2].request(), into)
    of.driver.start()
    of.driver.close()
    assert [type(outcome) for outcome in into] == [Reply, Reply]
    with pytest.raises(Closed):
        submit(devices[2], devices[2].request(), into)


def test_two_calls_of_one_session_follow_each_other_and_a_repeat_gets_the_same() -> None:
    of = Verifier(FakeContext(), 200, 8)
    one = device(of, 1)
    into: list[Any] = []
    request = one.request(drafts=2)
    submit(one, request, into)
    submit(one, request, into)
    run(of)
    assert isinstance(into[0], Reply)
    assert into[0] == into[1]
    assert of.counters.repeats == 1


def test_a_session_forgotten_while_a_call_waits_is_a_new_one() -> None:
    of = Verifier(FakeContext(), 200, 8)
    one = device(of, 1)
    one.ask(one.request(bonus=1))
    into: list[Any] = []
    submit(one, one.request(drafts=1), into)
    of.scheduler.forget(one.key)
    run(of)
    assert [type(outcome) for outcome in into] == [Conflict]
    one.ask(one.request(drafts=1, start=0))


def test_a_session_forgotten_during_a_pass_leaves_the_context_alone_until_it_is_over() -> None:
    """llama.cpp's cells must not change while a pass reads them in another thread."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(FakeContext):
        is_held = False

        def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
            if self.is_held:
                entered.set()
                assert go_on.wait(60.0)
            return super().decode(works, keep)

        def truncate(self, n: int, sequence: int) -> None:
            assert go_on.is_set() or not entered.is_set(), "in the middle of a pass"
            super().truncate(n, sequence)

    context = Slow()
    of = Verifier(context, 200, 8)
    devices = [device(of, i) for i in range(3)]
    for one in devices:
        one.ask(one.request(bonus=1))
    leaving = devices.pop()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        steps = asyncio.create_task(of.driver.run())
        context.is_held = True
        outcomes: list[Any] = []
        for one in devices:
            submit(one, one.request(drafts=1), outcomes)
        assert await loop.run_in_executor(None, entered.wait, 60.0)
        left = asyncio.Event()
        of.scheduler.forget(leaving.key, left.set)
        assert not left.is_set()
        go_on.set()
        await left.wait()
        of.driver.close()
        await steps
        assert [type(outcome) for outcome in outcomes] == [Reply, Reply]

    asyncio.run(serve())
    assert len(of.store) == len(devices)


def test_in_an_event_loop_only_passes_that_others_would_wait_for_run_elsewhere() -> None:
    ticks = itertools.count()
    context = FakeContext()
    of = Verifier(context, 200, 8, clock=lambda: 1e-6 * next(ticks))  # every pass is short
    devices = [device(of, i) for i in range(6)]
    threads: dict[bool, set[int]] = {False: set(), True: set()}
    home: set[int] = set()

    async def ask(one: Device) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            answer: asyncio.Future[Any] = loop.create_future()
            request = one.request(drafts=1, bonus=1)
            wanted = expected(one, request)

            def deliver(outcome: Any, answer: asyncio.Future[Any] = answer) -> None:
                home.add(threading.get_ident())
                answer.set_result(outcome)

            of.scheduler.submit(one.key, request, deliver)
            reply = one.hear(request, await answer)
            assert (reply.accepted, reply.tokens) == wanted

    async def serve() -> None:
        steps = asyncio.create_task(of.driver.run())
        await asyncio.gather(*map(ask, devices))
        await ask(devices[0])
        of.driver.close()
        await steps

    def decode(works: Sequence[Work], keep: bool = False) -> list[Logits]:
        threads[of.scheduler.open_calls == 1].add(threading.get_ident())
        return FakeContext.decode(context, works)

    context.decode = decode  # type: ignore[method-assign]
    asyncio.run(serve())
    assert home == {threading.get_ident()}
    assert len(threads[False]) == 1
    assert not threads[False] & home
    assert threads[True] == home


# Places


def test_a_newcomer_is_not_forgotten_when_all_others_have_calls_that_wait() -> None:
    of = Verifier(FakeContext(n_sequences=1), 200, 1)
    answers: list[Any] = []
    for one in [device(of, i) for i in range(7)]:  # five are remembered for each that is seated
        submit(one, one.request(drafts=1), answers)
    run(of)
    assert [type(outcome) for outcome in answers] == [Reply] * 7


def test_a_waiting_session_does_not_evict_one_that_runs() -> None:
    context = FakeContext(n_sequences=1, n_batch=50, n_ctx=2000)
    of = Verifier(context, 1000, 1)
    long, short = device(of, 1, prompt=LONG), device(of, 2)
    into: list[Any] = []
    submit(long, long.request(drafts=1), into)
    of.scheduler.step()
    submit(short, short.request(drafts=1), into)
    run(of)
    assert [outcome.held > 100 for outcome in into] == [True, False]
    evaluated = sum(len(work.tokens) for works in context.passes for work in works)
    assert evaluated <= len(LONG) + len(PROMPT) + 2  # nothing was read twice


def test_a_busy_session_keeps_its_place_for_a_quantum() -> None:
    clock = Clock()
    of = Verifier(FakeContext(n_sequences=1), 200, 1, clock=clock, quantum=5.0)
    first, second = device(of, 1), device(of, 2)
    into: list[Any] = []
    first.ask(first.request(drafts=1))
    submit(first, first.request(drafts=1), into)
    submit(second, second.request(drafts=1), into)
    session = of.store.use(first.key)
    session.calls += 1  # its next call waits already
    run(of)
    assert len(into) == 1
    clock.now = 6.0
    run(of)
    assert len(into) == 2


def test_a_parked_session_comes_back_without_being_read_again() -> None:
    context = FakeContext(n_sequences=1)
    of = Verifier(context, 200, 1, parked_bytes=1 << 20)
    devices = [device(of, i, prompt=[*PROMPT, i]) for i in range(3)]
    for one in devices:
        one.ask(one.request(drafts=1))
    for one in devices:
        before = len(context.passes)
        request = one.request(drafts=1)
        wanted = expected(one, request)
        reply = one.ask(request)
        assert (reply.accepted, reply.tokens) == wanted
        assert [len(work.tokens) for works in context.passes[before:] for work in works] == [1]
    assert of.store.parked_bytes > 0


def test_a_common_beginning_is_read_and_kept_once_for_an_owner() -> None:
    context = FakeContext(n_sequences=10, n_ctx=200)
    of = Verifier(context, 200, 8, n_prefixes=2)
    system = LONG[:60]
    for i in range(5):
        one = device(of, i, prompt=[*system, *PROMPT, i])
        reply = one.ask(request := one.request(drafts=1))
        assert reply.held == len(request.tokens)
    assert context.used <= 60 + 5 * 20
    assert of.store.used_cells == context.used
    before = len(context.passes)
    stranger = device(of, 9, "another owner", prompt=[*system, *PROMPT, 9])
    stranger.ask(stranger.request(drafts=1))
    read = sum(len(work.tokens) for works in context.passes[before:] for work in works)
    assert read == len(system) + len(PROMPT) + 1


def test_idle_sessions_are_forgotten() -> None:
    clock = Clock()
    of = Verifier(FakeContext(), 200, 8, clock=clock, idle_seconds=60.0)
    old, young = device(of, 1), device(of, 2)
    old.ask(old.request(drafts=1))
    clock.now = 50.0
    young.ask(young.request(drafts=1))
    clock.now = 70.0
    of.store.sweep()
    assert len(of.store) == 1
    young.ask(young.request(drafts=1))


ROUND = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(
    st.lists(ROUND, max_size=5),
    st.integers(1, 4),
    st.integers(70, 200),
    st.sampled_from([0, 300, 1 << 20]),
    st.sampled_from([(3, 8), (16, 16)]),
    st.booleans(),
)
def test_whatever_goes_together_every_verdict_is_that_of_the_rule(
    rounds: list[list[tuple[int, int, int, int]]],
    places: int,
    cells: int,
    parked: int,
    batch: tuple[int, int],
    is_shared: bool,
) -> None:
    context = FakeContext(n_ctx=cells, n_sequences=places + 1, max_rows=batch[0], n_batch=batch[1])
    of = Verifier(context, 70, places, n_prefixes=1, parked_bytes=parked)
    start = LONG[:34] if is_shared else []
    devices = [device(of, i, f"owner {i % 2}", [*PROMPT, *start, i]) for i in range(6)]
    for calls in rounds:
        asked = []
        for i, drafts, skipped, bonus in {call[0]: call for call in calls}.values():
            one = devices[i]
            if len(one.ids) + drafts + skipped + bonus > 65:
                continue
            request = one.request(drafts, skipped, bonus)
            into: list[Any] = []
            asked.append((one, request, expected(one, request), into))
            submit(one, request, into)
        run(of)
        for one, request, wanted, (outcome,) in asked:
            if isinstance(outcome, Conflict):  # forgotten; the device sends everything again
                reply = one.ask(one.request(len(request.drafts), 0, request.bonus, start=0))
            else:
                reply = one.hear(request, outcome)
                assert (reply.accepted, reply.tokens) == wanted
        assert of.store.used_cells == context.used
    assert of.scheduler.open_calls == 0
