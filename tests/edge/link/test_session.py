"""The books of a session: what is sent, and what they say after answers that come, or do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from uhlm_edge.common.errors import (
    CloudError,
    ProtocolError,
    Refused,
    Rejected,
    Unreachable,
    VocabularyMismatch,
)
from uhlm_edge.lm.targets import Contrastive
from uhlm_edge.wire.messages import Conflict, Limits, Request

from ...fakes import FakeVocabulary
from .books import PROMPT, Books, RecordingLink


@pytest.fixture
def link() -> RecordingLink:
    return RecordingLink()


@pytest.fixture
def books(link: RecordingLink) -> Iterator[Books]:
    books = Books(link)
    yield books
    books.session.close()


def whole(request: Request) -> bool:
    return request.start == 0 and request.settings is not None


def test_nothing_is_sent_before_the_first_upload(books: Books) -> None:
    books.skip(5)
    assert (books.link.asked, books.link.requests) == (0, [])
    assert books.text.n_skipped == 5


def test_what_was_skipped_rides_along_with_its_weights(books: Books) -> None:
    books.skip(3)
    before = list(books.ids)
    reply = books.ask()
    (request,) = books.link.requests
    assert list(request.tokens[:-1]) == before
    assert len(request.weights) == 3
    assert len(reply.betas) == 4
    assert books.text.n_skipped == 0


def test_only_what_is_new_is_sent_and_settings_only_when_needed(books: Books) -> None:
    books.ask()
    for _ in range(5):
        held = len(books.ids)
        books.ask()
        request = books.link.requests[-1]
        assert (request.start, len(request.tokens), request.settings) == (held, 1, None)
    assert whole(books.link.requests[0])
    assert [r.id for r in books.link.requests] == [1, 2, 3, 4, 5, 6]
    assert books.link.asked == len(books.link.sessions) == 1


def test_a_new_reply_sends_settings_and_what_differs(books: Books) -> None:
    books.ask(bonus=3)
    old = list(books.ids)
    books.begin([*old, *b"and more"], seed=6)
    books.ask()
    request = books.link.requests[-1]
    assert request.settings is not None
    assert (request.settings.seed, request.settings.origin) == (6, len(old) + 8)
    assert request.start == len(old)
    books.begin([*PROMPT[:5], *b"another text"], seed=7)
    books.ask()
    assert books.link.requests[-1].start == 5


def test_a_forgotten_session_is_sent_again_in_the_same_round_with_the_same_id(
    books: Books,
) -> None:
    other = Books(RecordingLink())
    for each in (books, other):
        each.ask()
        each.skip(2)
    books.link.restart()
    a, b = books.ask(), other.ask()
    first, second = books.link.requests[-2:]
    assert first.id == second.id
    assert first.start > 0
    assert whole(second)
    assert (a.accepted, a.tokens, a.betas) == (b.accepted, b.tokens, b.betas)
    other.session.close()


def test_what_the_verifier_still_holds_is_not_sent_again(books: Books) -> None:
    books.ask()
    books.ask(bonus=4)
    shorter = len(books.ids) - 3

    def forget_some(_: Request) -> None:
        (session,) = books.link.verifier.store._sessions.values()
        del session.ids[shorter:]

    books.link.faults = [forget_some]
    books.ask()
    again = books.link.requests[-1]
    assert again.start == shorter
    assert again.settings is not None


def test_a_verifier_that_holds_another_text_gets_everything(books: Books) -> None:
    books.ask()

    def mix_up(_: Request) -> None:
        (session,) = books.link.verifier.store._sessions.values()
        session.ids[2] ^= 1

    books.link.faults = [mix_up]
    books.ask()
    assert whole(books.link.requests[-1])


def test_a_second_conflict_is_a_fault(books: Books) -> None:
    books.ask()

    def forget(_: Request) -> None:
        books.link.restart()

    books.link.faults = [forget]
    unpack = Conflict(10**6, b"12345678")
    books.link.verify = lambda *_: unpack  # type: ignore[method-assign]
    assert isinstance(books.fail(), ProtocolError)


def rejects(request: Request) -> None:
    raise Rejected("no such call (HTTP 422)")


def test_a_rejected_call_is_logged_and_sent_anew_under_a_fresh_session(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    books.ask()
    books.skip(2)
    (old,) = books.link.sessions
    books.link.faults.append(rejects)
    reply = books.ask()
    _, rejected, again = books.link.requests
    assert rejected.start > 0
    assert whole(again)
    assert (rejected.id, list(again.tokens)[rejected.start :]) == (again.id, list(rejected.tokens))
    assert len(reply.betas) == 3
    (fresh,) = books.link.sessions - {old}
    assert books.session._id == fresh  # the next call goes there, and sends what is new
    books.ask()
    assert books.link.requests[-1].start == len(books.ids) - 1
    assert "sending everything anew: no such call" in caplog.text


def test_a_call_that_is_rejected_twice_is_a_fault_and_no_refusal_for_good(books: Books) -> None:
    books.link.faults += [rejects, rejects]
    assert isinstance(books.fail(), Rejected)
    assert books.session.ready
    books.ask()


def test_a_lost_reply_leaves_the_books_as_they_were(books: Books, link: RecordingLink) -> None:
    other = Books(RecordingLink())
    for each in (books, other):
        each.ask()
        each.skip(2)
    link.lose = 1
    assert isinstance(books.fail(), Unreachable)
    assert books.text.n_skipped == 2
    for _ in range(4):
        a, b = books.ask(), other.ask()
        assert (a.accepted, a.tokens, a.betas) == (b.accepted, b.tokens, b.betas)
    assert books.ids == other.ids
    other.session.close()


def test_the_first_reply_lost_leaves_the_books_as_they_were(books: Books) -> None:
    books.link.lose = 1
    books.skip(1)
    books.fail()
    books.skip(1)
    books.ask()
    request = books.link.requests[-1]
    assert whole(request)
    assert len(request.weights) == 2


# Many ids


def test_too_many_tokens_are_sent_in_several_calls() -> None:
    link = RecordingLink(Limits(tokens_per_call=16))
    books = Books(link)
    books.begin(list(range(100)))
    books.ask(3)
    assert [(r.start, len(r.tokens), len(r.drafts)) for r in link.requests] == [
        *((16 * i, 16, 0) for i in range(6)),
        (96, 7, 3),
    ]
    assert len({r.id for r in link.requests}) == 7
    books.ask()
    assert len(link.requests) == 8
    books.session.close()


@pytest.mark.parametrize("n", [13, 14, 15, 16, 17, 28, 29, 33])
@pytest.mark.parametrize("drafts", [1, 4, 8])
def test_drafts_and_weights_never_go_out_before_the_last_part(n: int, drafts: int) -> None:
    link = RecordingLink(Limits(tokens_per_call=16, weights_per_call=10))
    books, other = Books(link), Books(RecordingLink())
    for each in (books, other):
        each.begin(list(range(n)))
        each.skip(20)
    a, b = books.ask(drafts), other.ask(drafts)
    assert (a.accepted, a.tokens) == (b.accepted, b.tokens)
    weights = link.requests[-1].weights
    assert len(weights) == min(10, 16 - drafts)
    assert a.betas == b.betas[-len(a.betas) :]
    for each in (books, other):
        each.session.close()


def test_a_text_too_long_for_the_verifier_costs_no_call_and_is_no_refusal_for_ever() -> None:
    link = RecordingLink(n_ctx=20)
    books = Books(link)
    books.begin(list(range(20)))
    assert "longer than the context of fake-llm" in str(books.fail())
    assert link.requests == []
    books.begin(list(range(10)))
    books.ask()
    books.begin(list(range(17)))
    assert len(books.ask(0, bonus=9).tokens) == 3
    books.session.close()


# Who the verifier is


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"fingerprint": FakeVocabulary(9).fingerprint}, VocabularyMismatch),
        ({"random": "mersenne"}, Refused),
    ],
)
def test_a_verifier_that_does_not_fit_is_not_asked_again(
    books: Books, change: dict[str, object], error: type[Exception]
) -> None:
    books.link.info_change = change
    call = books.session.submit(books.drafts(1))
    with pytest.raises(error):
        books.session.conclude(call)
    books.now += 1e9
    assert not books.session.ready
    assert books.link.requests == []


def test_a_conversation_that_the_verifier_s_template_refuses_is_no_refusal_for_good(
    books: Books,
) -> None:
    books.link.info_change = {
        "template": "{% if messages[0].content == 'hi' %}{{ raise_exception('no such role') }}"
        "{% endif %}{{ messages[0].content }}"
    }
    books.begin(messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(CloudError, match=r"fake-llm \(cloud\): .*no such role"):
        books.session.conclude(books.session.submit([]))
    books.now += 1000.0
    assert books.session.ready
    books.begin(messages=[{"role": "user", "content": "hello"}])
    books.session.conclude(books.session.submit([], bonus=1))


def test_a_contrast_without_its_laws_is_no_answer(books: Books) -> None:
    books.begin(target=Contrastive())
    verify = books.link.verify
    books.link.verify = lambda *a: replace(verify(*a), distributions=[b"\x01"])  # type: ignore
    with pytest.raises(ProtocolError, match="nonsense"):
        books.session.conclude(books.session.submit(books.drafts(1)))
