"""The verifier's side of one call, against a model whose every row is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.errors import ContextFull, EngineError
from uhlm_edge.lm.draws import Purpose, uniform
from uhlm_edge.lm.engines.protocol import Logits, Work
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Distribution
from uhlm_edge.lm.targets import Contrastive, Weighted
from uhlm_edge.lm.verification import judge, target_probs
from uhlm_edge.wire import codec
from uhlm_edge.wire.messages import Conflict, OutOfRange, Reply, Request, prefix_hash

from ..fakes import CLOUD, FakeContext, FakeModel
from .devices import KEY, PROMPT, REPLY, SAMPLER, Device, expected, p_after, q_after


def verifier(context: FakeContext | None = None, n_ctx: int = 200, **more: int) -> Verifier:
    sessions = more.pop("sessions", 8)
    return Verifier(context or FakeContext(), n_ctx, sessions, clock=lambda: 0, **more)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)), max_size=8))
@example([(0, 2, 2), (0, 1, 2), (3, 3, 2), (0, 1, 2), (1, 2, 1)])  # whose last draft is an end
def test_every_verdict_is_that_of_the_rule(rounds: list[tuple[int, int, int]]) -> None:
    device = Device(verifier())
    for drafts, skipped, n_supply in rounds:
        request = device.request(drafts, skipped, n_supply)
        wanted = expected(device, request)
        reply = device.ask(request)
        assert (reply.accepted, reply.tokens) == wanted
        assert reply.held == len(device.ids)


def test_betas_of_skipped_tokens_are_those_of_a_plain_computation() -> None:
    device = Device(verifier())
    request = device.request(drafts=1, skipped=5)
    reply = device.ask(request)
    ids = list(PROMPT)
    for token, weight, beta in zip(
        request.tokens[len(PROMPT) :], request.weights, reply.betas, strict=False
    ):
        assert weight == q_after(ids).weight(token)
        assert beta == pytest.approx(max(0.0, 1 - p_after(ids)[token] / (weight / TOTAL)))
        ids.append(token)
    assert len(reply.betas) == 6


def test_an_hlm_call_evaluates_exactly_one_position() -> None:
    context = FakeContext()
    device = Device(verifier(context))
    device.ask(device.request(drafts=1))
    for _ in range(20):
        device.ask(device.request(drafts=1))
        assert [len(work.tokens) for work in context.passes[-1]] == [1]
    assert len(context.passes) == 21


def test_a_cloud_call_evaluates_one_position_per_supplied_token() -> None:
    context = FakeContext()
    device = Device(verifier(context))
    device.ask(device.request(bonus=4))
    for _ in range(3):
        before = len(context.passes)
        device.ask(device.request(bonus=4))
        new = context.passes[before:]
        assert [len(works[0].tokens) for works in new] == [1] * 4


def test_the_supply_stops_at_the_end_of_the_text() -> None:
    talkative = FakeModel("llm", 2, end=6.0)
    device = Device(verifier(FakeContext(talkative)))
    reply = device.ask(device.request(bonus=60))
    assert 0 < len(reply.tokens) < 60
    assert reply.tokens[-1] in talkative.vocab.end_ids
    assert not set(reply.tokens[:-1]) & talkative.vocab.end_ids


def test_nothing_is_supplied_after_an_accepted_end_of_text() -> None:
    end = len(CLOUD.vocab) - 1
    sure = Distribution(np.array([end]), np.array([TOTAL]))
    ids = [*PROMPT, end]
    request = Request(1, 0, prefix_hash([]), ids, drafts=[sure], bonus=3, settings=REPLY)
    certain = FakeModel("llm", 2, end=100.0)
    reply = verifier(FakeContext(certain)).verify(KEY, request)
    assert isinstance(reply, Reply)
    assert (reply.accepted, reply.tokens, reply.held) == (1, [], len(ids))


# Repeats, rollback, conflicts


def test_a_repeated_call_gets_the_same_reply_and_costs_nothing() -> None:
    context = FakeContext()
    device = Device(verifier(context))
    request = device.request(drafts=2, skipped=1, bonus=1)
    reply = device.verifier.verify(KEY, request)
    passes = len(context.passes)
    assert device.verifier.verify(KEY, request) is reply
    assert len(context.passes) == passes


def test_a_reply_that_got_lost_changes_nothing() -> None:
    kept, lost = Device(verifier()), Device(verifier())
    for device in (kept, lost):
        device.ask(device.request(drafts=1))
    lost.verifier.verify(KEY, lost.request(drafts=1))  # nobody hears the answer
    for _ in range(5):
        a = kept.ask(kept.request(drafts=1))
        b = lost.ask(lost.request(drafts=1))
        assert (a.accepted, a.tokens, a.betas) == (b.accepted, b.tokens, b.betas)
    assert kept.ids == lost.ids


SLID = [*PROMPT, *range(40, 90)], [*PROMPT, *range(60, 90), 7]


@pytest.mark.parametrize("slide", [True, False])
def test_a_text_without_its_oldest_turns_is_read_again_unless_it_may_slide(slide: bool) -> None:
    context = FakeContext()
    verifier = Verifier(context, 200, 8)
    one = Device(verifier, prompt=SLID[0])
    one.ask(one.request(bonus=1))
    context.passes.clear()
    one.ids, one.held = list(SLID[1]), 0
    request = one.request(drafts=2, bonus=1, start=len(PROMPT))
    request = replace(request, settings=REPLY.model_copy(update={"slide": slide}))
    wanted = expected(one, request)
    reply = one.ask(request)
    assert (reply.accepted, reply.tokens) == wanted
    read = sum(len(work.tokens) for works in context.passes for work in works)
    assert (read < 10) is slide


def test_a_session_whose_ids_are_shared_does_not_slide_over_them() -> None:
    """Their cells are in two texts, and can have only one place."""
    context = FakeContext()
    verifier = Verifier(context, 200, 4, n_prefixes=2)
    one, two = (Device(verifier, (KEY[0], c * 32), SLID[0]) for c in "ab")
    one.ask(one.request(bonus=1))
    two.ask(two.request(bonus=1))
    kept = list(two.ids)
    one.ids, one.held = list(SLID[1]), 0
    request = one.request(drafts=1, start=len(PROMPT))
    one.ask(replace(request, settings=REPLY.model_copy(update={"slide": True})))
    request = two.request(drafts=1)
    wanted = expected(two, request)
    reply = two.ask(request)
    assert (reply.accepted, reply.tokens) == wanted
    assert two.ids[: len(kept)] == kept


def test_what_is_held_beyond_start_is_dropped() -> None:
    device = Device(verifier())
    device.ask(device.request(bonus=6))
    del device.ids[-4:]
    request = device.request(drafts=3, start=len(device.ids))
    wanted = expected(device, request)
    reply = device.ask(request)
    assert (reply.accepted, reply.tokens) == wanted


@pytest.mark.parametrize("start", [1, 5, len(PROMPT), len(PROMPT) + 1])
def test_an_unknown_session_is_a_conflict_that_a_resend_cures(start: int) -> None:
    device = Device(verifier())
    device.ids.append(3)
    assert device.verifier.verify(KEY, device.request(drafts=1, start=start)) == Conflict(
        0, prefix_hash([])
    )
    request = device.request(drafts=1, start=0)
    assert device.ask(request).accepted in (0, 1)


def test_another_prefix_is_a_conflict_that_says_what_is_held() -> None:
    device = Device(verifier())
    device.ask(device.request(drafts=1))
    held = list(device.ids)
    device.ids[3] ^= 1
    answer = device.verifier.verify(KEY, device.request(drafts=1))
    assert answer == Conflict(len(held), prefix_hash(held))


def test_a_start_beyond_what_is_held_is_a_conflict() -> None:
    device = Device(verifier())
    device.ask(device.request(drafts=1))
    device.ids += [1, 2, 3]
    answer = device.verifier.verify(KEY, device.request(drafts=1, start=len(device.ids)))
    assert isinstance(answer, Conflict)


def test_no_settings_yet_is_a_conflict() -> None:
    request = replace(Device(verifier()).request(drafts=1), settings=None)
    assert verifier().verify(KEY, request) == Conflict(0, prefix_hash([]))


@pytest.mark.parametrize("fails_at", [1, 2, 3])
@pytest.mark.parametrize("error", [EngineError("no"), ContextFull("no")], ids=repr)
def test_ids_that_were_held_before_a_failure_are_not_trusted_after_it(
    fails_at: int, error: EngineError, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = FakeContext()
    device = Device(verifier(context))
    device.ask(device.request(bonus=8))
    start = len(device.ids) - 6
    passes = iter(range(1, 100))

    def failing(works: Sequence[Work], keep: bool = False) -> list[Logits]:
        if next(passes) == fails_at:
            raise error
        return FakeContext.decode(context, works)

    with monkeypatch.context() as patch:
        patch.setattr(context, "decode", failing)
        other = replace(device.request(start=start), tokens=[1, 2, 3, 4, 5], bonus=4)
        with pytest.raises(EngineError):
            device.verifier.verify(KEY, other)
    request = device.request(drafts=1)  # as if nothing had happened
    assert request.start == len(device.ids)
    answer = device.verifier.verify(KEY, request)
    assert answer == Conflict(start, prefix_hash(device.ids[:start]))
    request = device.request(drafts=1, start=start)
    wanted = expected(device, request)
    reply = device.ask(request)
    assert (reply.accepted, reply.tokens) == wanted


# Sessions


def test_sessions_with_one_id_and_different_owners_are_different() -> None:
    of = verifier()
    secret = list(b"a secret text")
    mine, theirs = Device(of, ("me", "f" * 32)), Device(of, ("them", "f" * 32), secret)
    theirs.ask(theirs.request(bonus=2))
    guess = replace(mine.request(drafts=1, start=len(secret)), prefix=prefix_hash(secret))
    assert of.verify(mine.key, guess) == Conflict(0, prefix_hash([]))
    mine.ask(mine.request(bonus=3))
    before = list(theirs.ids)
    of.store.drop(mine.key)
    theirs.ask(theirs.request(bonus=2))
    assert theirs.ids[: len(before)] == before
    assert len(of.store) == 1


def test_more_sessions_than_sequences_only_cost_a_resend() -> None:
    of = verifier(FakeContext(n_sequences=2), sessions=2)
    devices = [Device(of, ("o", f"{i:032x}"), [*PROMPT, i]) for i in range(5)]
    check_all_go_on(of, devices)
    assert of.store.seated == 2


def test_more_sessions_than_cells_only_cost_a_resend() -> None:
    of = verifier(FakeContext(n_ctx=40, n_sequences=8), n_ctx=40)
    devices = [Device(of, ("o", f"{i:032x}"), [*PROMPT, i]) for i in range(6)]
    check_all_go_on(of, devices)


def check_all_go_on(of: Verifier, devices: list[Device]) -> None:
    for _ in range(4):
        for device in devices:
            request = device.request(drafts=1, bonus=1)
            wanted = expected(device, request)
            if isinstance(of.verify(device.key, request), Conflict):
                request = device.request(drafts=1, bonus=1, start=0)
            reply = device.ask(request)
            assert (reply.accepted, reply.tokens) == wanted


def test_an_owner_has_only_its_share_of_the_places() -> None:
    of = verifier(per_owner=2)
    other = Device(of, ("other", "0" * 32))
    other.ask(other.request(bonus=1))
    mine = [Device(of, ("me", f"{i:032x}")) for i in range(3)]
    for device in mine * 2:
        device.ask(device.request(bonus=1))
    places = [key for key, session in of.store._sessions.items() if session.sequence >= 0]
    assert set(places) == {other.key, mine[1].key, mine[2].key}


def test_a_text_too_long_for_the_pool_says_so_and_the_others_go_on() -> None:
    context = FakeContext(n_ctx=30)
    of = verifier(context, n_ctx=200)
    long = Device(of, ("o", "1" * 32), list(range(100)))
    with pytest.raises(ContextFull):
        long.ask(long.request(drafts=1))
    short = Device(of, ("o", "2" * 32))
    short.ask(short.request(drafts=1))


# What does not fit


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, tokens=r.tokens[-1:]),  # nothing before the draft
        lambda r: replace(r, tokens=[], drafts=[], bonus=1),  # nothing to go on from
        lambda r: replace(r, tokens=[*range(200), r.tokens[-1]]),  # longer than the context
        lambda r: replace(r, bonus=200),
        lambda r: replace(r, settings=REPLY.model_copy(update={"origin": 100})),
    ],
)
def test_what_does_not_fit_the_session_is_out_of_range(
    change: Callable[[Request], Request],
) -> None:
    of = verifier()
    with pytest.raises(OutOfRange):
        of.verify(KEY, change(Device(of).request(drafts=1)))


def test_a_prompt_of_one_id_is_enough() -> None:
    device = Device(verifier(), prompt=[7])
    request = replace(
        device.request(bonus=1), settings=REPLY.model_copy(update={"origin": 1}), bonus=2
    )
    assert len(device.ask(request).tokens) == 2


# Ensembles


def test_a_weighted_target_is_aimed_at_with_sparse_laws_and_a_proposal_follows() -> None:
    target = Weighted(weight=0.3)
    for seed in range(20):
        device = Device(verifier())
        request = device.request(drafts=2, bonus=1)
        chosen = REPLY.model_copy(update={"target": target, "seed": seed})
        reply = device.verifier.verify(KEY, replace(request, settings=chosen))
        assert isinstance(reply, Reply)
        whole = list(request.tokens)
        ps = [SAMPLER.distribution(Row(CLOUD.row(whole[: len(PROMPT) + i]))) for i in range(3)]
        n = len(CLOUD.vocab)
        rs = [target_probs(target, q, p.probs(n)) for q, p in zip(request.drafts, ps, strict=False)]
        verdict = judge(whole[len(PROMPT) :], request.drafts, rs, seed, 0)
        assert reply.accepted == verdict.accepted
        if verdict.replacement is None:
            assert (reply.tokens, reply.held) == ([], len(whole))
            (sent,) = map(codec.unpack_distribution, reply.distributions, [n])
            assert sent.probs(n) == pytest.approx(ps[2].probs(n))
            assert reply.proposal == sent.draw(uniform(seed, Purpose.PROPOSAL, 2))
        else:
            assert (reply.tokens, reply.proposal) == ([verdict.replacement], None)


def test_a_contrastive_target_sends_the_laws_of_what_was_weighed() -> None:
    device = Device(verifier())
    request = device.request(skipped=3)
    chosen = REPLY.model_copy(update={"target": Contrastive()})
    reply = device.verifier.verify(KEY, replace(request, settings=chosen))
    assert isinstance(reply, Reply)
    assert (reply.accepted, reply.tokens) == (0, [])
    for i, raw in enumerate(reply.distributions):
        ids, log_p = codec.unpack_contrast(raw, len(CLOUD.vocab))
        p = p_after(request.tokens[: len(PROMPT) + i])
        assert ids.tolist() == np.flatnonzero(p >= 0.1 * p.max()).tolist()
        assert np.exp(log_p) == pytest.approx(p[ids], rel=1e-5)
    assert len(reply.distributions) == 3
