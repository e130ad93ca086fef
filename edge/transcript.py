"""The text of a reply on the device: the one owner of what is drafted and committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..lm.vocabulary import TextDecoder
from .cache import TokenCache
from .events import Draft, Outcome, Source, Token


class Transcript:
    """A prompt, the committed tokens of the reply after it, and drafts after those.

    The ids lie in the token cache, in this order; everything else is a view of them, or a mark:

        ids:     prompt ... | committed tokens ... | drafts ...
        marks:   `origin`   ^      `origin + len(tokens)` ^

    and further marks, counted in tokens of the reply: `answered`, what the verifier's last answer
    covers; `held`, what the verifier holds. The cache's own mark says what the model has read.
    A rollback moves back every mark that it passes.

    Args:
        cache: the device's ids and the engine that follows them.
        prompt: ids of the conversation as the device's template renders it.
        limit: tokens of the reply at most.
        clock: seconds.

    Attributes:
        tokens: committed, never taken back.
        proposals: what the device drafted at each committed position; None where it did not.
        drafts: drafted and not committed.
        end_ids: a reply ends at an end-of-text id of either model.
        ended: nothing follows the last committed token.
        held: ids of the reply that the verifier holds; below 0, so many are missing of its prompt.
        answered: tokens of the reply before which nothing is left for the verifier to judge.
    """

    def __init__(
        self, cache: TokenCache, prompt: Sequence[int], limit: int, clock: Callable[[], float]
    ) -> None:
        cache.restart(prompt)
        self.origin = len(prompt)
        self.tokens: list[Token] = []
        self.proposals: list[Draft | None] = []
        self.drafts: list[Draft] = []
        self.limit = min(limit, cache.room)
        self.end_ids = cache.engine.vocab.end_ids
        self.ended = self.limit <= 0
        self.held = 0
        self.answered = 0
        self._cache = cache
        self._decoder = TextDecoder(cache.engine.vocab)
        self._clock = clock
        self._begun = clock()

    @property
    def reply_ids(self) -> list[int]:
        """Ids of the committed tokens."""
        return self._cache.ids[self.origin : self.origin + len(self.tokens)]

    @property
    def proposed(self) -> dict[int, Draft]:
        """What the device drafted, by the position of the committed tokens."""
        return {draft.index: draft for draft in self.proposals if draft is not None}

    @property
    def n_skipped(self) -> int:
        """How many tokens were committed since the last answer: their betas are not known."""
        return len(self.tokens) - self.answered

    @property
    def skipped(self) -> list[Draft]:
        """The drafts that those tokens were, oldest first."""
        return [draft for draft in self.proposals[self.answered :] if draft is not None]

    @property
    def elapsed(self) -> float:
        """Seconds since the reply began."""
        return self._clock() - self._begun

    def is_last(self, draft: Draft) -> bool:
        """Does it end the text, or reach the limit?"""
        return draft.id in self.end_ids or draft.index + 1 >= self.limit

    def push(self, draft: Draft) -> None:
        """One more draft."""
        self.drafts.append(draft)
        self._cache.append(draft.id)

    def rollback(self) -> None:
        """Take back every draft."""
        self.drafts.clear()
        self._cache.rollback(self.origin + len(self.tokens))
        self.held = min(self.held, len(self.tokens))

    def commit_draft(
        self,
        uploaded: bool,
        accepted: bool | None = None,
        unverified: bool = False,
        source: Source = "edge",
    ) -> Token:
        """The oldest draft stands; `source` is another model where that proposed it."""
        draft = self.drafts.pop(0)
        own = draft if source == "edge" else None
        return self._commit(draft.id, own, source, uploaded, accepted, unverified)

    def commit(self, token: int, replaced: Draft | None, outcome: Outcome) -> Token:
        """A token that is no draft stands; drafts must be rolled back before.

        Args:
            token: its id.
            replaced: the draft in whose place it stands, if there is one.
            outcome: says who wrote it, with which verdict, and whether the verifier holds it.
        """
        if outcome.held and self.held == len(self.tokens):
            self.held += 1
        self._cache.append(token)
        return self._commit(token, replaced, outcome.source, True, outcome.verdict, False)

    def _commit(
        self,
        token: int,
        draft: Draft | None,
        source: Source,
        uploaded: bool,
        accepted: bool | None,
        unverified: bool,
    ) -> Token:
        text = self._decoder.feed(token)
        self.ended = token in self.end_ids or len(self.tokens) + 1 >= self.limit
        if self.ended:
            text += self._decoder.end()
        committed = Token(
            len(self.tokens), token, text, source, draft.uncertainty if draft else None,
            uploaded, accepted, unverified, self.elapsed,
        )  # fmt: skip
        self.tokens.append(committed)
        self.proposals.append(draft)
        return committed
