"""The generation loop: draft, decide, verify, settle."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from ...common.errors import CloudError, VocabularyMismatch
from ...lm.draws import Draws, Purpose
from ...lm.row import Row
from ...lm.sampling import Sampler
from ...lm.targets import LLM, Contrastive
from ...lm.uncertainty import Estimator, sampled
from ...lm.vocabulary import TextDecoder, Vocabulary
from ...wire.messages import Info, Reply
from ..events import Draft, Event, Notice, SkippedVerdict, Source, Token
from ..link.session import Call, Remote
from ..policy.reward import RewardHead
from ..policy.strategy import Strategy
from .cache import TokenCache
from .ensemble import judge_contrast, judge_proposal, log_probs
from .stats import Stats

__all__ = ["GOING_ON", "Device", "Prompt", "ReplyLoop"]

GOING_ON = "going on with the device alone"


@dataclass(frozen=True)
class Prompt:
    """What to reply to.

    Attributes:
        ids: the conversation as the device's template renders it.
        render: the same for the verifier's, once it is known which that is.
        seed: of this reply.
        max_tokens: ids of the reply at most.
    """

    ids: Sequence[int]
    render: Callable[[Info], list[int]]
    seed: int
    max_tokens: int


@dataclass(frozen=True)
class Device:
    """What stays the same from reply to reply on the device.

    Attributes:
        tape: ids and engine.
        sampler: how q is made from logits; the verifier applies the same.
        wire_top: most ids in q.
        k: perturbed samples per draft.
        estimator: of u.
        measure: estimate u even if the policy does not ask for it.
        backend: which backend took the layers, as it says itself.
        head: what expects acceptance, for policies that ask it.
    """

    tape: TokenCache
    sampler: Sampler
    wire_top: int = 64
    k: int = 20
    estimator: Estimator = sampled
    measure: bool = False
    backend: str = ""
    head: RewardHead | None = None

    @property
    def vocab(self) -> Vocabulary:
        return self.tape.engine.vocab


class ReplyLoop:
    """One reply. Iterate `events()`; what it yields is settled and never taken back.

    A draft that the policy skips is settled at once, unless a call is under way or the scope is
    `all`: then it waits for the verdict, because a rejection takes back what follows it. So only
    the newest draft can ask for an upload, and at most one call is under way.

    Args:
        device: the model on the device.
        remote: the session with the verifier, None to stay offline.
        strategy: policy, scope, target.
        prompt: what to reply to.
        pipelined: draft on while a call is under way; None: when that pays, by measured times.
    """

    def __init__(
        self,
        device: Device,
        remote: Remote | None,
        strategy: Strategy,
        prompt: Prompt,
        pipelined: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.stats = Stats(strategy.name)
        self.tokens: list[Token] = []
        self.proposed: dict[int, Draft] = {}  # the device's last word on each position
        self.ended = False
        self._device, self._tape = device, device.tape
        self._remote = remote
        self._strategy = strategy
        self._pipelined = pipelined
        self._seed = prompt.seed
        target = strategy.target
        self._contrast = target if isinstance(target, Contrastive) else None
        self._clock = clock
        self._draws = Draws(prompt.seed, device.k)
        self._decoder = TextDecoder(device.vocab)
        self._drafts: list[Draft] = []  # drafted, not settled
        self._asking = False  # the newest draft is to be uploaded
        self._call: Call | None = None
        self._traffic = replace(remote.link.traffic) if remote is not None else None
        self._begun = clock()
        self._tape.restart(prompt.ids)
        self._origin = len(prompt.ids)
        if device.head is not None:
            device.head.reset()
        self._limit = min(prompt.max_tokens, self._tape.room)
        self.ended = self._limit <= 0
        if remote is not None:
            remote.begin(prompt.render, device.sampler, strategy.target, prompt.seed)

    def events(self) -> Generator[Event, None, None]:
        """Run to the end of the reply. Closing the iterator discards what is not settled."""
        try:
            while not self.ended or self._call is not None or self._audit_due():
                for event in self._round():
                    self.stats.add(event)
                    yield event
        finally:
            self._discard()
            self.stats.elapsed = self._clock() - self._begun
            self.stats.threshold = self._strategy.policy.threshold
            if self._remote is not None and self._traffic is not None:
                self.stats.add_traffic(self._traffic, self._remote.link.traffic)

    def _round(self) -> Iterator[Event]:
        """Draft, decide, verify, settle."""
        if self._call is not None and (self._call.done or self._must_wait()):
            yield from self._settle_call(self._call)
        elif self._audit_due():
            self._ask([], audit=True)
        elif not self._strategy.drafts and self._online():
            self._ask([])
        else:
            self.stats.pipelined |= self._call is not None
            draft = self._draft()
            self._drafts.append(draft)
            self._asking = self._online() and self._wants(draft)
        if self._call is None:
            yield from self._settle_skipped()
            if self._asking:
                self._ask(self._drafts)

    # Draft

    def _draft(self) -> Draft:
        """Draw the next token from q, and measure what the policy needs to know about it."""
        device, index = self._device, len(self.tokens) + len(self._drafts)
        begun = self._clock()
        if self._tape.unread > 1:  # a prompt: not the time of a token
            self._tape.read_all_but_last()
            self.stats.prefill_time += self._clock() - begun
            begun = self._clock()
        row = Row(self._tape.row())
        q = device.sampler.distribution(row, device.wire_top)
        token = q.draw(self._draws.one(Purpose.DRAFT, index))
        u = None
        if device.measure or "uncertainty" in self._strategy.policy.needs:
            thetas, perturbs = self._draws.thetas(index), self._draws.perturbs(index)
            u = device.estimator(row, token, thetas, perturbs)
        self._tape.append(token)
        reward = None
        if u is not None and device.head is not None:
            reward = device.head.score(index, row, token, u)
        log_q = log_probs(row, device.sampler) if self._contrast is not None else None
        took = self._clock() - begun
        self.stats.drafts += 1
        self.stats.device_time += took
        if self._remote is not None:
            self._remote.pace.drafted(took)
        return Draft(index, token, q, u, reward, log_q)

    # Decide

    def _online(self) -> bool:
        return self._remote is not None and self._remote.ready

    def _wants(self, draft: Draft) -> bool:
        """Is this draft to be uploaded?"""
        if self._strategy.policy.upload(draft, self._draws):
            return True
        if self._strategy.scope != "all":
            return False
        unsent = len(self._drafts) - (len(self._call.drafts) if self._call else 0)
        return unsent >= self._draft_limit() or self._no_draft_after(draft)

    def _draft_limit(self) -> int:
        """As configured, or the one that settles the most tokens per second."""
        limit = self._strategy.draft_limit
        assert self._remote is not None  # noqa: S101 - only asked while online
        if limit is None:
            limit = self._remote.pace.draft_limit(self._pipelining)
        if self._remote.info is not None:
            limit = min(limit, self._remote.info.limits.drafts_per_call)
        self.stats.draft_limit = limit
        return limit

    def _no_draft_after(self, draft: Draft) -> bool:
        """Does it end the text, or reach the limit?"""
        return draft.id in self._ends or draft.index + 1 >= self._limit

    def _must_wait(self) -> bool:
        """Is there nothing to do before the verdict?"""
        if self.ended or self._asking or self._strategy.scope == "none" or not self._pipelining:
            return True
        return bool(self._drafts) and self._no_draft_after(self._drafts[-1])

    @property
    def _pipelining(self) -> bool:
        if self._proposes or self._remote is None:
            return False  # the LLM's proposal comes after all drafts
        if self._pipelined is not None:
            return self._pipelined
        return self._remote.pace.pipelining_pays

    @property
    def _proposes(self) -> bool:
        return self._strategy.target != LLM and self._strategy.bonus > 0

    def _audit_due(self) -> bool:
        """Is it time to ask about nothing but the tokens skipped so far?"""
        longest = self._strategy.policy.audit_after
        if longest is None or self._call is not None or self._asking or not self._online():
            return False
        skipped = self._remote.n_skipped if self._remote else 0
        return skipped > 0 and (self.ended or skipped >= longest)

    # Verify

    def _ask(self, drafts: Sequence[Draft], audit: bool = False) -> None:
        """Send a call. Its drafts are the first of those not settled."""
        assert self._remote is not None  # noqa: S101 - only asked while online
        judged = [] if self._strategy.scope == "none" else drafts
        room = self._limit - len(self.tokens) - len(judged)  # no token beyond the reply's last
        supply = 0 if audit else min(self._strategy.bonus, room)
        self._call = self._remote.submit(judged, supply, weigh=self._contrast is not None)
        self._asking = False
        self.stats.audits += audit
        self.stats.uploads += not audit

    # Settle

    def _settle_skipped(self) -> Iterator[Event]:
        """Drafts that nobody will judge."""
        if self._strategy.scope == "all" and self._online():
            return
        ready = len(self._drafts) - self._asking
        for draft in self._drafts[:ready]:
            yield from self._settle_draft(draft)
        del self._drafts[:ready]

    def _settle_draft(self, draft: Draft, uploaded: bool = False) -> Iterator[Event]:
        if not self.ended:
            if self._remote is not None:
                self._remote.skip(draft)
            yield self._token(draft.id, "edge", draft, uploaded, None)

    def _settle_call(self, call: Call) -> Iterator[Event]:
        """Wait for the verdict and do as it says; without one, go on as the device alone."""
        assert self._remote is not None  # noqa: S101 - there was a call
        self._call = None
        begun = self._clock()
        try:
            reply = self._remote.conclude(call)
        except (CloudError, VocabularyMismatch) as error:
            self.stats.wait_time += self._clock() - begun
            self._asking = False
            if self.stats.offline_reason is None:
                self.stats.offline_reason = str(error)
                yield Notice(f"{error}; {GOING_ON}")
            asked = 1 if self._strategy.scope == "none" else len(call.drafts)
            for i, draft in enumerate(self._drafts):
                yield from self._settle_draft(draft, uploaded=i < asked)
            self._drafts.clear()
            return
        self.stats.wait_time += self._clock() - begun
        self.stats.cloud_time += reply.us.model / 1e6
        yield from self._learn(call, reply)
        if self._contrast is not None and call.drafts:
            verdict = judge_contrast(
                call.drafts, reply, self._contrast, self._seed, len(self._device.vocab)
            )
            self._remote.keep([draft.id for draft in call.drafts[: verdict.accepted]])
            tokens = [] if verdict.replacement is None else [verdict.replacement]
            for token in tokens:
                self._remote.append(token)
            yield from self._settle_verdict(call, verdict.accepted, tokens)
        else:
            yield from self._settle_verdict(call, reply.accepted, reply.tokens)
        if reply.proposal is not None and not self.ended:
            yield self._settle_proposal(reply, reply.proposal)

    def _learn(self, call: Call, reply: Reply) -> Iterator[Event]:
        """The betas of the tokens skipped before: policies learn from them."""
        n = len(reply.betas) - call.n_judged(reply) - len(call.drafts) * call.weigh
        for draft, beta in zip(call.skipped[len(call.skipped) - n :], reply.betas, strict=False):
            judged = SkippedVerdict(draft.index, draft.uncertainty, beta)
            self._strategy.policy.observe(judged)
            yield judged

    def _settle_verdict(self, call: Call, accepted: int, tokens: Sequence[int]) -> Iterator[Event]:
        """The first drafts stand; `tokens` replace the next one, or are supplied."""
        for draft in call.drafts[:accepted]:
            if not self.ended:
                yield self._token(draft.id, "edge", draft, True, True)
        if not tokens:
            del self._drafts[:accepted]
            return
        # What was drafted from here on is void.
        void = self._drafts[accepted] if len(self._drafts) > accepted else None
        verdict = False if call.drafts else None
        self._drafts.clear()
        self._asking = False
        self._tape.rollback(self._origin + len(self.tokens))
        for i, token in enumerate(tokens):
            if not self.ended:
                self._tape.append(token)
                yield self._token(token, "cloud", None if i else void, True, verdict)

    def _settle_proposal(self, reply: Reply, proposal: int) -> Token:
        """The LLM proposes and the device judges: the other half of the ensemble's round."""
        assert self._remote is not None  # noqa: S101 - there was a call
        begun = self._clock()
        q = self._device.sampler.distribution(Row(self._tape.row()), self._device.wire_top)
        verdict = judge_proposal(
            reply, proposal, q, self._strategy.target, self._seed, len(self.tokens),
            len(self._device.vocab),
        )  # fmt: skip
        self.stats.device_time += self._clock() - begun
        stands = verdict.replacement is None
        token = proposal if verdict.replacement is None else verdict.replacement
        self._tape.append(token)
        self._remote.append(token)
        return self._token(token, "cloud" if stands else "edge", None, True, stands)

    @property
    def _ends(self) -> frozenset[int]:
        """A reply ends at an end-of-text id of either model."""
        info = self._remote.info if self._remote is not None else None
        ends = self._device.vocab.end_ids
        return ends if info is None else ends | info.end_ids

    def _token(
        self,
        token: int,
        source: Source,
        draft: Draft | None,
        uploaded: bool,
        accepted: bool | None,
    ) -> Token:
        """The next token of the reply; the reply ends at an end of text or at the limit."""
        u = None
        if draft is not None:
            u = draft.uncertainty
            self.proposed[draft.index] = draft
            if uploaded and accepted is not None:
                self._strategy.policy.observe(
                    SkippedVerdict(draft.index, u, 0.0)
                )  # it risked nothing
        text = self._decoder.feed(token)
        self.ended = token in self._ends or len(self.tokens) + 1 >= self._limit
        if self.ended:
            text += self._decoder.end()
        settled = Token(
            len(self.tokens), token, text, source, u, uploaded, accepted,
            self._clock() - self._begun,
        )  # fmt: skip
        self.tokens.append(settled)
        return settled

    def _discard(self) -> None:
        """Drop what is not settled, on both sides."""
        if self._call is not None and self._remote is not None:
            self._remote.abandon()
        self._call = None
        self._drafts.clear()
        self._tape.rollback(self._origin + len(self.tokens))
