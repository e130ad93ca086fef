"""The generation loop: draft, decide, verify, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from enum import Enum, auto

from ...common.errors import CloudError, VocabularyMismatch
from ..events import Draft, Event, Notice, Outcome, Token
from ..link.call import Call, DraftsTooLarge
from ..link.session import Prompt, Session
from ..policy.strategy import Strategy
from ..stats import Stats
from ..transcript import Transcript
from .decide import Decider
from .drafter import Device, Drafter
from .outcome import outcomes

GOING_ON = "going on with the device alone"


class State(Enum):
    """What the next step is."""

    DRAFTING = auto()  # no call is under way: draft
    ASKING = auto()  # the newest draft is to be uploaded: submit a call
    WAITING = auto()  # a call is under way, and the device may draft on
    BLOCKED = auto()  # a call is under way, and nothing is to be done before its answer
    ENDED = auto()


class ReplyLoop:
    """One reply. Iterate `events()`; what it yields is committed and never taken back.

    A draft that the policy skips is committed at once, unless a call is under way or the scope is
    `all`: then it waits for the verdict, because a rejection takes back what follows it. So only
    the newest draft can ask for an upload, and at most one call is under way.

    Args:
        device: the model on the device.
        session: with the verifier; it may be offline.
        strategy: policy, scope, target.
        prompt: what to reply to.
        pipelined: draft on while a call is under way; None: when that pays, by measured times.
        clock: seconds.
    """

    def __init__(
        self,
        device: Device,
        session: Session,
        strategy: Strategy,
        prompt: Prompt,
        pipelined: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.stats = Stats(strategy.name)
        self.state = State.DRAFTING
        self._session, self._strategy = session, strategy
        self.text = Transcript(device.cache, prompt.ids, prompt.max_tokens, clock)
        self.tokens = self.text.tokens
        self._drafter = Drafter(device, strategy, prompt.seed, session.latency, self.stats, clock)
        self._decide = Decider(
            strategy, session, self.text, self._drafter.draws, self.stats, pipelined
        )
        self._call: Call | None = None
        self._asked: Draft | None = None  # the newest draft of the newest call
        session.begin(
            self.text, prompt, device.sampler, strategy.target, self.stats, strategy.coupling
        )
        self._drafter.limit_q(session.info)

    def events(self) -> Generator[Event, None, None]:
        """Run to the end of the reply. Closing the iterator discards what is not committed."""
        try:
            while self.state is not State.ENDED:
                for event in self._round():
                    self.stats.add(event)
                    yield event
        finally:
            if self._call is not None:
                self._session.abandon()
            self.text.rollback()
            self._session.count_traffic()
            self.stats.elapsed = self.text.elapsed
            self.stats.threshold = self._strategy.policy.threshold

    def _round(self) -> Iterator[Event]:
        """Draft, decide, verify or commit: the step that is due."""
        if self._call is not None:
            if self.state is State.WAITING and not self._call.done:
                self._draft(len(self._call.drafts))
                self._wait()
            else:
                yield from self._conclude(self._call)
        elif self.state is State.ASKING:
            self._ask(self.text.drafts)
        else:
            ready = self._session.ready  # one look a round: what is decided by it is also done
            if ready and self._decide.audit_due:
                self._ask([], audit=True)
            elif self.text.ended:
                self.state = State.ENDED
            elif ready and not self._strategy.drafts:
                self._ask([])
            else:
                draft = self._draft()
                if ready and draft.due:
                    self.state = State.ASKING
                elif not ready or self._strategy.scope != "all":
                    yield from self._commit_alone()

    def _draft(self, n_asked: int = 0) -> Draft:
        """One more draft, and whether a verdict on it is wanted."""
        draft = self._drafter.draft(len(self.text.tokens) + len(self.text.drafts))
        self.text.push(draft)
        if self._decide.wants(draft, n_asked):
            self.text.drafts[-1] = draft = replace(draft, due=True)
        return draft

    def _ask(self, drafts: Sequence[Draft], audit: bool = False) -> None:
        """Submit a call. Its drafts are the first of those not committed."""
        judged = [] if self._strategy.scope == "none" else drafts
        room = self.text.limit - len(self.text.tokens) - len(judged)
        bonus = 0 if audit else max(0, min(self._decide.bonus, room))
        self._call = self._session.submit(judged, bonus, audit)
        self._asked = drafts[-1] if drafts else None
        self._wait()

    def _wait(self) -> None:
        """A call is under way: may the device draft on?"""
        may = self._decide.may_draft_on and not self._is_asking
        self.state = State.WAITING if may else State.BLOCKED

    @property
    def _is_asking(self) -> bool:
        """Is a verdict on the newest draft wanted that was not asked for yet?"""
        newest = self.text.drafts[-1] if self.text.drafts else None
        return newest is not None and newest.due and newest is not self._asked

    def _conclude(self, call: Call) -> Iterator[Event]:
        """Wait for the answer and do as it says; without one, go on as the device alone."""
        self._call, self.state = None, State.DRAFTING
        try:
            reply = self._session.conclude(call)
        except DraftsTooLarge:
            self._drafter.limit_q(self._session.info)
            self.text.rollback()
            return
        except (CloudError, VocabularyMismatch) as error:
            if self.stats.offline_reason is None:
                self.stats.offline_reason = str(error)
                yield Notice(f"{error}; {GOING_ON}")
            n_asked = 1 if self._strategy.scope == "none" else len(call.drafts)
            yield from self._commit_alone(n_asked=n_asked)
            return
        self._drafter.limit_q(self._session.info)
        for verdict in call.skipped_verdicts(reply):
            self._strategy.policy.observe(verdict)
            yield verdict
        for outcome in outcomes(call, reply, self._drafter):
            yield from self._commit(outcome)
            if self.text.ended:
                break
        self.text.answered = len(self.text.tokens)
        self.state = State.ASKING if self._is_asking else State.DRAFTING
        if self._strategy.scope != "all":
            yield from self._commit_alone(but=int(self._is_asking))

    def _commit(self, outcome: Outcome) -> Iterator[Token]:
        """The first drafts stand; tokens take the place of the others."""
        text = self.text
        for _ in range(outcome.accepted):
            if not text.ended:
                yield self._decide.judged(text.commit_draft(uploaded=True, accepted=True))
        if outcome.tokens:
            replaced = text.drafts[0] if text.drafts else None
            text.rollback()
            for token in outcome.tokens:
                if not text.ended:
                    yield self._decide.judged(text.commit(token, replaced, outcome))
                replaced = None

    def _commit_alone(self, n_asked: int = 0, but: int = 0) -> Iterator[Token]:
        """Commit drafts without a verdict, but the newest `but`; `n_asked` were asked about."""
        text = self.text
        for i in range(len(text.drafts) - but):
            if not text.ended:
                wanted = text.drafts[0].due or self._strategy.scope == "all"
                yield text.commit_draft(uploaded=i < n_asked, unverified=wanted)
        if text.ended:
            text.rollback()
