"""When to ask the verifier, and whether to draft on meanwhile."""

from __future__ import annotations

from ...lm.draws import Draws
from ...lm.targets import LLM
from ..events import Draft, SkippedVerdict, Token
from ..link.session import Session
from ..policy.strategy import Strategy
from ..stats import Stats
from ..transcript import Transcript


class Decider:
    """The strategy's decisions in one reply.

    Args:
        strategy: policy, scope, target.
        session: knows measured times and the verifier's limits.
        text: of the reply.
        draws: its random numbers.
        stats: gets the draft limit.
        pipelined: as configured; None: when it pays, by measured times.
    """

    def __init__(
        self,
        strategy: Strategy,
        session: Session,
        text: Transcript,
        draws: Draws,
        stats: Stats,
        pipelined: bool | None,
    ) -> None:
        self._strategy, self._session, self._text = strategy, session, text
        self._draws, self._stats, self._pipelined = draws, stats, pipelined

    def judged(self, token: Token) -> Token:
        """Tell the policy of a draft that was judged: whatever it was, the text is the target's."""
        draft = self._text.proposals[-1]
        if draft is not None and token.accepted is not None:
            self._strategy.policy.observe(SkippedVerdict(draft.index, draft.uncertainty, 0.0))
        return token

    def wants(self, draft: Draft, n_asked: int) -> bool:
        """Is a verdict on this draft wanted? `n_asked` of the drafts are asked about already."""
        if self._strategy.policy.upload(draft, self._draws):
            return True
        if self._strategy.scope != "all":
            return False
        unasked = len(self._text.drafts) - n_asked
        return unasked >= self._draft_limit() or self._text.is_last(draft)

    @property
    def audit_due(self) -> bool:
        """Is it time to ask about nothing but the tokens skipped so far?"""
        longest, skipped = self._strategy.policy.audit_after, self._text.n_skipped
        if longest is None or not skipped or self._text.drafts:
            return False
        return self._text.ended or skipped >= longest

    @property
    def may_draft_on(self) -> bool:
        """May the device draft while a call is under way?"""
        if self._text.ended or self._strategy.scope == "none" or not self._pipelining:
            return False
        return not self._text.drafts or not self._text.is_last(self._text.drafts[-1])

    @property
    def bonus(self) -> int:
        """How many tokens of the LLM's own are asked for: no proposal where none pays."""
        if self._proposes and self._strategy.draft_limit is None:
            return int(self._session.latency.ensemble_step()[1])
        return self._strategy.bonus

    @property
    def _proposes(self) -> bool:
        return self._strategy.target != LLM and self._strategy.bonus > 0

    @property
    def _pipelining(self) -> bool:
        if self._proposes:
            return False  # the LLM's proposal comes after all drafts
        if self._pipelined is not None:
            return self._pipelined
        return self._session.latency.pipelining_pays

    def _draft_limit(self) -> int:
        """As configured, or the one that commits the most tokens per second."""
        limit, info = self._strategy.draft_limit, self._session.info
        if limit is None and self._proposes:
            limit, _ = self._session.latency.ensemble_step()
        elif limit is None:
            limit = self._session.latency.draft_limit(self._pipelining)
        if info is not None:
            limit = min(limit, info.limits.drafts_per_call)
        self._stats.draft_limit = limit
        return limit
