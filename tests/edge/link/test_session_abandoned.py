"""Calls that nobody waits for any more change nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from uhlm_edge.common.errors import DeadlineExceeded
from uhlm_edge.wire.messages import Request

from .books import PROMPT, Books, RecordingLink


@pytest.fixture
def link() -> RecordingLink:
    return RecordingLink()


@pytest.fixture
def books(link: RecordingLink) -> Iterator[Books]:
    books = Books(link)
    yield books
    books.session.close()


def test_a_late_answer_has_no_effect() -> None:
    link = RecordingLink()
    books, other = Books(link), Books(RecordingLink())
    began, release = threading.Event(), threading.Event()

    def hang(_: Request) -> None:
        began.set()
        assert release.wait(20)

    link.faults = [hang]
    late = books.session.submit(books.drafts(1))
    assert began.wait(20)
    books.session.abandon()
    assert link.resets == 1
    for each in (books, other):
        each.begin([*PROMPT, 33], seed=9)
    release.set()
    late.future.exception(20)
    for _ in range(4):
        a, b = books.ask(), other.ask()
        assert (a.accepted, a.tokens) == (b.accepted, b.tokens)
    assert books.ids == other.ids
    settings = [r.settings.seed for r in link.requests[1:] if r.settings is not None]
    assert set(settings) == {9}
    for each in (books, other):
        each.session.close()


def test_an_abandoned_call_makes_no_further_tries() -> None:
    link = RecordingLink()
    books = Books(link)
    began, release = threading.Event(), threading.Event()

    def forget_later(_: Request) -> None:
        began.set()
        assert release.wait(20)
        link.restart()

    books.ask()
    link.faults = [forget_later]
    call = books.session.submit(books.drafts(1))
    assert began.wait(20)
    books.session.abandon()
    release.set()
    assert isinstance(call.future.exception(20), DeadlineExceeded)  # no re-send after the conflict
    assert len(link.requests) == 2
    books.session.close()


def test_a_call_that_hangs_ends_at_the_deadline_and_its_thread_after_it() -> None:
    before = set(threading.enumerate())  # those of another test may be ending still
    link = RecordingLink()
    books = Books(link, seconds=0.1)
    release = threading.Event()

    def hang(_: Request) -> None:
        release.wait(20)

    link.faults = [hang]
    assert "longer than 0.1 s" in str(books.fail())
    release.set()
    books.ask()
    books.session.close()
    threads = [t for t in {*threading.enumerate()} - before if t.name == "uhlm-link"]
    assert len(threads) <= 2
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_an_interrupt_while_waiting_abandons_the_call(books: Books) -> None:
    def interrupted(_: Request) -> None:
        raise KeyboardInterrupt

    books.link.faults = [interrupted]
    with pytest.raises(KeyboardInterrupt):
        books.session.conclude(books.session.submit(books.drafts(1)))
    assert books.link.resets == 1
    books.ask()
