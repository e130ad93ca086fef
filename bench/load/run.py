"""Play N devices for S seconds against a verifier, and turn what they noted into a row."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

from ...common.errors import CloudError, ResourceError
from .client import Client
from .plan import Load
from .player import Log, Player, pour
from .row import Played, load_row

_WARM_UP = 2.0
_LONGEST_WARM_UP = 15.0
_START = 60.0  # seconds that a process may take to begin


def run_load(load: Load, processes: int = 1) -> dict[str, Any]:
    """Play, and return the row.

    Args:
        load: what is played.
        processes: that the devices are spread over: one is soon slower than the verifier.

    Raises:
        UsageError: the plan cannot be run.
        ResourceError: one of the processes ended before its time.
    """
    load.plan.check()
    spawn = multiprocessing.get_context("spawn")
    processes = min(processes, load.plan.devices)
    together = spawn.Barrier(processes)
    others, pipes = [], []
    try:
        for i in range(1, processes):
            pipe, end = spawn.Pipe(duplex=False)
            arguments = (end, together, load, (i, processes))
            others.append(spawn.Process(target=_other, args=arguments, daemon=True))
            pipes.append(pipe)
            others[-1].start()
            end.close()
        played = [_run(drive(load, (0, processes), _gate(together)))]
        played += [pipe.recv() for pipe in pipes]
    except (BrokenBarrierError, EOFError):
        raise ResourceError("a process of the load tool ended before its time") from None
    finally:
        for process in others:
            process.kill()
            process.join()
    return load_row(load.plan, played)


def _other(end: Connection, together: Barrier, load: Load, share: tuple[int, int]) -> None:
    """A further process: its share of the devices."""
    end.send(_run(drive(load, share, _gate(together))))


def _gate(together: Barrier) -> Callable[[], Awaitable[object]]:
    return lambda: asyncio.to_thread(together.wait, _LONGEST_WARM_UP + _START)


def _run(play: Coroutine[Any, Any, Played]) -> Played:
    try:
        import uvloop
    except ImportError:  # an extra, and not for Windows
        return asyncio.run(play)
    return uvloop.run(play)


async def _at_once() -> None:
    """No other process to wait for."""


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Until Python 3.12, `wait_for` may swallow a cancellation that comes as it ends: ask again."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def drive(
    load: Load, share: tuple[int, int] = (0, 1), gate: Callable[[], Awaitable[object]] = _at_once
) -> Played:
    """Play a share of the devices. It ends in time whatever the verifier does.

    Args:
        load: what is played.
        share: (i, n): devices i, i + n, ...; whoever plays the first of them looks at the verifier
            and pours the prefills.
        gate: passed when all processes are warm.
    """
    log, plan = Log(), load.plan
    _ = load.steps  # refuses what has no call
    looks = share[0] == 0
    probe = load.client()
    numbers = range(share[0], plan.devices, share[1])
    players = [Player(load.client(), log, load) for _ in numbers]
    tasks = [asyncio.create_task(_late(p, i)) for i, p in zip(numbers, players, strict=True)]
    if plan.prefills_per_s and looks:
        players.append(Player(load.client(), log, load))
        tasks.append(asyncio.create_task(pour(players[-1], load, 1)))

    async def look() -> tuple[str, tuple[float, float] | None]:
        return (await _scrape(probe), _usage(load.pid)) if looks else ("", None)

    try:
        await _warm_up(log, len(numbers))
        await gate()
        seen, own = [await look()], time.process_time()
        began, log.open = time.monotonic(), True
        pause = max(1.0, plan.duration / 100)
        while (left := began + plan.duration - time.monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            if left > pause:
                seen.append(await look())
            _fail_early(tasks)
        log.open = False
        seconds = time.monotonic() - began
        own = time.process_time() - own
        seen.append(await look())
    finally:
        await _cancel(tasks)
        await _leave([player.client for player in players], plan.deadline)
        probe.close()
    metrics, usage = zip(*seen, strict=True)
    return Played(log, seconds, own, metrics, usage, pause)


async def _late(player: Player, number: int) -> None:
    """A device that comes at a moment of its own."""
    await asyncio.sleep(random.Random(number).uniform(0, 0.75 * _WARM_UP))  # noqa: S311
    await player.play(number)


async def _warm_up(log: Log, devices: int) -> None:
    begun = time.monotonic()
    while (spent := time.monotonic() - begun) < _LONGEST_WARM_UP:
        if spent >= _WARM_UP and log.arrived >= devices:
            return
        await asyncio.sleep(0.1)


def _fail_early(tasks: Sequence[asyncio.Task[None]]) -> None:
    """A device that stopped by itself has met a bug: say so instead of measuring fewer devices."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            raise error


async def _leave(clients: Sequence[Client], deadline: float) -> None:
    """Devices end their sessions when they go."""

    async def end(client: Client) -> None:
        try:
            await client.call("DELETE", f"/v1/sessions/{client.session_id}", timeout=deadline)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError):
            return  # it forgets by itself
        finally:
            client.close()

    for at in range(0, len(clients), 16):
        await asyncio.gather(*(end(client) for client in clients[at : at + 16]))


async def _scrape(probe: Client) -> str:
    """`/metrics` as text; empty if the verifier has none."""
    try:
        answer = await probe.call("GET", "/metrics")
    except (asyncio.TimeoutError, OSError, EOFError, ValueError):
        return ""
    if answer.status in (401, 403):
        raise CloudError("the verifier refuses the key; set UHLM_API_KEY to a valid one")
    return answer.body.decode("utf-8", "replace") if answer.status == 200 else ""


def _usage(pid: int | None) -> tuple[float, float] | None:
    """CPU seconds and resident bytes of a process."""
    if pid is None:
        return None
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, float(process.memory_info().rss)
    except psutil.Error:
        return None
