"""Play N devices for S seconds against a verifier, and turn what they noted into a row."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

from ...common.errors import CloudError, ResourceError, UsageError
from ...wire.messages import Info
from .client import Client
from .player import Log, Player, pour
from .row import Played, load_row
from .trace import Step, Trace, steps_of

__all__ = ["MOST_DEVICES", "Plan", "drive", "run_load"]

MOST_DEVICES = 5000
_WARM_UP = 2.0
_LONGEST_WARM_UP = 15.0
_START = 60.0  # seconds that a process may take to begin


@dataclass(frozen=True)
class Plan:
    """What the devices do.

    Attributes:
        devices: how many.
        duration: measured seconds, after a warm-up in which they come one by one: 2 s, or until
            each has had an answer, but at most 15 s.
        tokens_per_s: of each device; 0: as fast as the verifier answers.
        upload_rate: share of tokens uploaded.
        drafts: tokens judged in one call.
        prefills_per_s: long prefills of one more device.
        prefill_ids: ids of such a prefill.
        deadline: seconds that a call may take, tries included.
    """

    devices: int
    duration: float
    tokens_per_s: float
    upload_rate: float = 0.1
    drafts: int = 1
    prefills_per_s: float = 0.0
    prefill_ids: int = 990
    deadline: float = 10.0

    def check(self) -> None:
        """Raise UsageError for what cannot be run."""
        if not 1 <= self.devices <= MOST_DEVICES:
            raise UsageError(f"devices lie between 1 and {MOST_DEVICES}, not {self.devices}")
        if not 1.0 <= self.duration <= 3600.0:
            raise UsageError("a duration lies between 1 and 3600 s")
        if not 0.0 <= self.tokens_per_s <= 1e4:
            raise UsageError("tokens per second of a device lie between 0 (no pause) and 10000")
        if not 0.0 < self.upload_rate <= 1.0:
            raise UsageError("an upload rate lies above 0 and at most at 1")
        if not 1 <= self.drafts <= 64:
            raise UsageError("a call has 1 to 64 drafts")
        if not 0.0 <= self.prefills_per_s <= 100.0 or not 2 <= self.prefill_ids <= 100_000:
            raise UsageError("prefills: at most 100 a second, of 2 to 100000 tokens")
        room = _open_files() - 64
        if self.devices > room:
            raise UsageError(
                f"{self.devices} devices need as many connections, and this shell allows "
                f"{max(0, room)}; raise it with `ulimit -n`"
            )


def run_load(
    plan: Plan,
    url: str,
    key: str | None,
    info: Info,
    traces: Sequence[Trace],
    pid: int | None,
    processes: int = 1,
) -> dict[str, Any]:
    """Play, and return the row.

    Args:
        plan: what the devices do.
        url: of the verifier.
        key: for it.
        info: what it says about itself.
        traces: recorded replies.
        pid: of its process if it runs on this machine as a child, for its CPU time and memory.
        processes: that the devices are spread over: one is soon slower than the verifier.

    Raises:
        UsageError: the plan cannot be run.
        ResourceError: one of the processes ended before its time.
    """
    plan.check()
    spawn = multiprocessing.get_context("spawn")
    processes = min(processes, plan.devices)
    together = spawn.Barrier(processes)
    others, pipes = [], []
    try:
        for i in range(1, processes):
            pipe, end = spawn.Pipe(duplex=False)
            arguments = (end, together, plan, url, key, info, traces, (i, processes))
            others.append(spawn.Process(target=_other, args=arguments, daemon=True))
            pipes.append(pipe)
            others[-1].start()
            end.close()
        share, gate = (0, processes), _gate(together)
        played = [_run(drive(plan, url, key, info, traces, pid, share, gate))]
        played += [pipe.recv() for pipe in pipes]
    except (BrokenBarrierError, EOFError):
        raise ResourceError("a process of the load tool ended before its time") from None
    finally:
        for process in others:
            process.kill()
            process.join()
    return load_row(plan, played)


def _other(end: Connection, together: Barrier, *arguments: Any) -> None:
    """A further process: its share of the devices."""
    plan, url, key, info, traces, share = arguments
    end.send(_run(drive(plan, url, key, info, traces, None, share, _gate(together))))


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
    plan: Plan,
    url: str,
    key: str | None,
    info: Info,
    traces: Sequence[Trace],
    pid: int | None,
    share: tuple[int, int] = (0, 1),
    gate: Callable[[], Awaitable[object]] = _at_once,
) -> Played:
    """Play a share of the devices. It ends in time whatever the verifier does.

    Args:
        plan, url, key, info, traces, pid: as for `run_load`.
        share: (i, n): devices i, i + n, ...; whoever plays the first of them looks at the verifier
            and pours the prefills.
        gate: passed when all processes are warm.
    """
    log = Log()
    n_vocab = info.fingerprint[0]
    pace = 1.0 / plan.tokens_per_s if plan.tokens_per_s else 0.0
    steps = steps_of(traces, 1.0 if plan.drafts > 1 else plan.upload_rate, plan.drafts)
    if not any(step.drafts for reply in steps for step in reply):
        raise UsageError("at this upload rate the recorded replies have no upload; raise it")
    looks = share[0] == 0
    probe = Client(url, key, secrets.token_hex(16))
    numbers = range(share[0], plan.devices, share[1])
    clients = [Client(url, key, secrets.token_hex(16)) for _ in numbers]
    tasks = [
        asyncio.create_task(
            _late(plan, Player(c, log, n_vocab, plan.deadline, pace), traces, steps, i)
        )
        for i, c in zip(numbers, clients, strict=True)
    ]
    if plan.prefills_per_s and looks:
        ids = [token for trace in traces for token in (*trace.prompt, *_settled(trace))]
        ids = (ids * (1 + plan.prefill_ids // len(ids)))[: min(plan.prefill_ids, info.n_ctx - 2)]
        clients.append(Client(url, key, secrets.token_hex(16)))
        player = Player(clients[-1], log, n_vocab, plan.deadline, 0.0)
        settings = traces[0].settings.model_copy(update={"origin": 0})
        tasks.append(asyncio.create_task(pour(player, ids, settings, plan.prefills_per_s, 1)))

    async def look() -> tuple[str, tuple[float, float] | None]:
        return (await _scrape(probe), _usage(pid)) if looks else ("", None)

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
        await _leave(clients, plan.deadline)
        probe.close()
    metrics, usage = zip(*seen, strict=True)
    return Played(log, seconds, own, metrics, usage, pause)


async def _late(
    plan: Plan,
    player: Player,
    traces: Sequence[Trace],
    steps: Sequence[Sequence[Step]],
    number: int,
) -> None:
    """A device that comes at a moment of its own."""
    await asyncio.sleep(random.Random(number).uniform(0, 0.75 * _WARM_UP))  # noqa: S311
    await player.play(traces, steps, number)


async def _warm_up(log: Log, devices: int) -> None:
    begun = time.monotonic()
    while (spent := time.monotonic() - begun) < _LONGEST_WARM_UP:
        if spent >= _WARM_UP and log.arrived >= devices:
            return
        await asyncio.sleep(0.1)


def _settled(trace: Trace) -> Iterator[int]:
    return (turn.settled for turn in trace.turns)


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


def _open_files() -> int:
    if os.name != "posix":
        return MOST_DEVICES
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DEVICES + 64 if soft == resource.RLIM_INFINITY else soft
