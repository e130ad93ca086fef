"""A playing device against a server that misbehaves: errors are counted, and it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from uhlm_edge.bench.load.plan import Load, Plan
from uhlm_edge.bench.load.player import Log, Player
from uhlm_edge.wire.messages import Limits, Request, prefix_hash

from .played import INFO, N_VOCAB, Asked, accepting, http, scripted, trace

TRACE = trace("hello", 12, wrong=(4,))


def play(answer: Callable[[Asked], bytes | None], deadline: float = 10.0) -> Log:
    """One reply against a scripted server."""
    log = Log(open=True)

    async def run() -> None:
        async with scripted(answer) as url:
            plan = Plan(1, 1.0, 0.0, upload_rate=1.0, deadline=deadline)
            load = Load(plan, [TRACE], url, None, INFO)
            player = Player(load.client(), log, load)
            await player.reply(0)
            player.client.close()

    asyncio.run(run())
    return log


def test_a_reply_is_played_in_as_many_calls_as_it_has_uploads() -> None:
    starts = []

    def answer(asked: Asked) -> bytes:
        request = Request.unpack(asked.body, Limits(), N_VOCAB)
        starts.append((request.start, request.settings is not None))
        return accepting(asked)

    log = play(answer)
    origin = len(TRACE.prompt)
    # The draft at 4 was accepted here, and is not what was recorded: the next call goes back.
    expected = [0, *range(origin + 1, origin + 5), origin + 4, *range(origin + 6, origin + 12)]
    assert [start for start, _ in starts] == expected
    assert [sent for _, sent in starts] == [True] + [False] * 11
    assert [s.kind for s in log.samples] == ["first"] + ["verify"] * 11
    assert log.tokens == 12
    assert not log.errors


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (http(429, b"{}", "retry-after: 0"), "429"),
        (http(503), "503"),
        (http(500), "500"),
        (http(200, b"nonsense"), "malformed"),
        (b"SSH-2.0 hello\r\n\r\n", "malformed"),
        (None, "connection"),
    ],
)
def test_each_kind_of_failure_is_counted_as_what_it_is(wrong: bytes | None, kind: str) -> None:
    # A kept connection that was closed is opened once more before it counts as a failure.
    failing = (2, 3) if wrong is None else (2,)
    log = play(lambda asked: wrong if asked.number in failing else accepting(asked))
    assert log.errors == {kind: 1}
    assert log.tokens == 12


def test_what_stays_unanswered_is_the_device_s_own_text_and_rides_along_later() -> None:
    weights = []

    def answer(asked: Asked) -> bytes:
        weights.append(len(Request.unpack(asked.body, Limits(), N_VOCAB).weights))
        return http(400) if asked.number in (3, 4) else accepting(asked)

    log = play(answer)
    assert log.unverified == 2
    assert weights[3:7] == [0, 1, 2, 0]


def test_a_verifier_that_forgot_gets_everything_again_with_the_settings() -> None:
    requests = []

    def answer(asked: Asked) -> bytes:
        requests.append(Request.unpack(asked.body, Limits(), N_VOCAB))
        if asked.number == 5:
            return http(409, b'{"held": 0, "held_prefix": "%s"}' % prefix_hash([]).hex().encode())
        return accepting(asked)

    log = play(answer)
    again = requests[6]
    assert (again.id, again.start) == (requests[5].id, 0)
    assert again.settings == TRACE.settings
    assert log.errors == {"409": 1}
    assert log.unverified == 0


def test_a_verifier_that_never_answers_costs_the_deadline_and_no_more() -> None:
    log = play(lambda asked: b"" if asked.number == 11 else accepting(asked), deadline=0.3)
    assert log.errors == {"timeout": 1}
    assert log.tokens == 12
