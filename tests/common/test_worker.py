"""One job after another, a queue with an end, and an end that loses nothing."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from uhlm_edge.common.worker import Closed, Full, Worker


def test_jobs_run_in_order_in_one_other_thread() -> None:
    worker = Worker("w")
    seen: list[int] = []
    threads: set[int] = set()

    def job(i: int, _: int) -> int:
        threads.add(threading.get_ident())
        seen.append(i)
        return i * i

    futures = [worker.submit(partial(job, i)) for i in range(50)]
    assert [future.result(10) for future in futures] == [i * i for i in range(50)]
    assert seen == list(range(50))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    worker.close()


def test_a_job_is_told_how_long_it_waited_and_may_fail() -> None:
    worker = Worker("w")
    assert worker.submit(lambda waited: waited).result(10) >= 0
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda _: 1 / 0).result(10)
    assert worker.submit(lambda _: "goes on").result(10) == "goes on"
    worker.close()


def test_a_full_queue_takes_no_more() -> None:
    worker, release, began = Worker("w", limit=2), threading.Event(), threading.Event()

    def hang(_: int) -> bool:
        began.set()
        return release.wait(10)

    running = worker.submit(hang)
    assert began.wait(10)
    waiting = [worker.submit(lambda _: 1) for _ in range(2)]
    with pytest.raises(Full):
        worker.submit(lambda _: 1)
    assert waiting[0].cancel()
    release.set()
    assert running.result(10)
    assert waiting[1].result(10) == 1
    worker.close()


@pytest.mark.parametrize("how", ["close", "retire"])
def test_the_end_finishes_what_was_submitted_and_takes_nothing_new(how: str) -> None:
    worker, release = Worker("w", limit=2), threading.Event()
    futures = [worker.submit(lambda _: release.wait(10))]
    futures.append(worker.submit(lambda _: True))
    if how == "retire":
        worker.retire()
    release.set()
    worker.close()
    worker.close()
    assert all(future.result(10) for future in futures)
    with pytest.raises(Closed):
        worker.submit(lambda _: 1)
