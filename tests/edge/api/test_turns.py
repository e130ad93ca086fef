"""Clients take turns, and one that leaves does not hold the others up."""

from __future__ import annotations

import asyncio

import pytest

from uhlm_edge.edge.api.turns import Busy, Turns


def run_in_order(clients: str, leaving: set[int] = frozenset(), limit: int = 99) -> str:  # type: ignore[assignment]
    """Who was served, in order, when all of `clients` came while another was served."""
    served = ""

    async def main() -> None:
        turns, done = Turns(limit), asyncio.Event()

        async def first() -> None:
            async with turns.turn("first"):
                await done.wait()

        async def come(client: str) -> None:
            nonlocal served
            async with turns.turn(client):
                served += client

        holder = asyncio.create_task(first())
        await asyncio.sleep(0)
        tasks = []
        for client in clients:
            tasks.append(asyncio.create_task(come(client)))
            await asyncio.sleep(0)
        for i in leaving:
            tasks[i].cancel()
        await asyncio.sleep(0)
        done.set()
        results = await asyncio.gather(holder, *tasks, return_exceptions=True)
        failed = [each for each in results if isinstance(each, Exception)]
        if failed:
            raise failed[0]
        assert not turns.taken
        assert turns.waiting == 0

    asyncio.run(main())
    return served


def test_one_client_with_many_requests_does_not_starve_another() -> None:
    assert run_in_order("aaaabbc") == "abcabaa"


def test_one_that_leaves_the_queue_is_skipped() -> None:
    assert run_in_order("abcab", leaving={1, 3}) == "acb"


def test_more_than_the_limit_are_refused() -> None:
    with pytest.raises(Busy):
        run_in_order("abc", limit=2)


def test_one_that_leaves_when_its_turn_has_come_passes_it_on() -> None:
    async def main() -> None:
        turns = Turns(9)

        async def come() -> None:
            async with turns.turn("a"):
                pass

        async with turns.turn("first"):
            gone, other = asyncio.create_task(come()), asyncio.create_task(come())
            await asyncio.sleep(0)
        gone.cancel()  # its turn has come, and it has not run yet
        await asyncio.gather(gone, other, return_exceptions=True)
        assert not other.cancelled()
        assert not turns.taken

    asyncio.run(main())
