"""Whole replies to a cloud of any kind: the device begins unseen, and hands over when unsure.

The reply loop itself is the device's alone. Its first tokens are held back; their mean uncertainty
decides once. Cascades and routers decide so per reply; the other strategies decide per token.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from ...common.errors import CloudError
from ...common.prompts import Message
from ...configs.config import AskBy
from ...lm.sampling import Sampler
from ..events import Event, Notice, Token
from ..link.session import Prompt, Session
from ..policy.policies import Never, doubt
from ..policy.strategy import Strategy
from ..stats import Stats, Traffic
from .drafter import Device
from .loop import GOING_ON, ReplyLoop

NO_ID = -1
"""The id of a piece of text that the endpoint wrote: it has ids of its own, if any."""


class Endpoint(Protocol):
    """What can be handed a whole reply; see `link.openai.OpenAiEndpoint`."""

    @property
    def traffic(self) -> Traffic:
        """What has gone over the line."""
        ...

    @property
    def ready(self) -> bool:
        """May a reply be handed over now?"""
        ...

    def connect(self) -> None:
        """Ask who it is. Raises CloudError; ConfigError: it must be told which model."""
        ...

    def stream(
        self,
        messages: Sequence[Message],
        sampler: Sampler,
        seed: int,
        max_tokens: int,
        prompt_tokens: int = 0,
    ) -> Generator[str, None, str]:
        """The reply, piece by piece; its value is why it ended. Raises CloudError."""
        ...


@dataclass(frozen=True)
class Handoff:
    """When a reply is handed over, and to whom.

    Attributes:
        endpoint: writes it then; None: there is none, so the device goes on.
        window: tokens that the device drafts unseen, at most.
        threshold: of the mean doubt over the window.
        by: what the doubt is: u, or the rejection that the device's reward head expects.
    """

    endpoint: Endpoint | None = None
    window: int = 24
    threshold: float = 0.047  # the demo pair's on its tasks, where nothing else was measured
    by: AskBy = "uncertainty"


def doubts(loop: ReplyLoop, by: AskBy) -> list[float]:
    """How much each draft of a reply was doubted."""
    drafts = (draft for draft in loop.text.proposals if draft is not None)
    return [found for draft in drafts if (found := doubt(draft, by)) is not None]


class HandoffLoop:
    """One reply, by the device or by the endpoint. Iterate `events()`.

    A fault of the endpoint never ends the text: the device goes on from there.

    Args:
        device: the model on the device.
        handoff: when to hand over.
        prompt: what to reply to; its messages are what the endpoint is sent.

    Attributes:
        stats: counts what was shown, not what the device drafted unseen.
        tokens: shown so far.
        text: the device's own transcript.
    """

    def __init__(self, device: Device, handoff: Handoff, prompt: Prompt) -> None:
        self.stats = Stats("handoff", threshold=handoff.threshold)
        self.tokens: list[Token] = []
        self._device = replace(device, measure=True)
        self._handoff = handoff
        self._prompt = prompt
        self._begun = time.perf_counter()
        self._local = self._alone(prompt)
        self.text = self._local.text

    def events(self) -> Generator[Event, None, None]:
        """Run to the end of the reply."""
        endpoint = self._handoff.endpoint
        before = None if endpoint is None else replace(endpoint.traffic)
        try:
            with closing(self._local.events()) as drafting:
                yield from self._decided(drafting)
            self.text.ended = True
        finally:
            local = self._local.stats
            self.stats.drafts, self.stats.device_time = local.drafts, local.device_time
            self.stats.prefill_time = local.prefill_time
            self.stats.elapsed = self._now
            if endpoint is not None and before is not None:
                self.stats.add_traffic(before, endpoint.traffic)

    def _decided(self, drafting: Generator[Event, None, None]) -> Iterator[Event]:
        held: list[Token] = []
        while len(held) < self._handoff.window:
            event = next(drafting, None)
            if event is None:
                break
            if isinstance(event, Token):
                held.append(event)
        known = doubts(self._local, self._handoff.by)[: len(held)]
        risk = sum(known) / len(known) if known else 0.0
        unsure = risk > self._handoff.threshold
        what = "expected rejection" if self._handoff.by == "head" else "mean u"
        why = f"{what} {risk:.3f} {'>' if unsure else '<='} {self._handoff.threshold:.3f}"
        endpoint, missed = self._handoff.endpoint, False
        if self._prompt.messages is None or self._device.grammar is not None:
            endpoint = None  # a bare text, not a conversation; or it would be bound to nothing
        if unsure and endpoint is not None:
            missed = True  # until its first word
            if endpoint.ready:
                if (yield from self._handed_over(endpoint, why)):
                    return
                if self.tokens:  # it broke off: the device goes on from its words, not its own
                    yield from self._go_on(why)
                    return
        elif unsure:
            missed = True
            self.stats.offline_reason = "there is no endpoint that could be handed this"
        for token in held:
            yield self._shown(replace(token, reason=why, unverified=missed, time=self._now))
        for event in drafting:
            if isinstance(event, Token):
                event = self._shown(replace(event, reason=why, unverified=missed))
            yield event

    def _handed_over(self, endpoint: Endpoint, why: str) -> Generator[Event, None, bool]:
        """The endpoint's reply; did it come to its end?"""
        assert self._prompt.messages is not None  # noqa: S101 - what there is to hand over
        self.stats.uploads += 1
        begun = self._now
        pieces = endpoint.stream(
            self._prompt.messages, self._device.sampler, self._prompt.seed,
            self._prompt.max_tokens, len(self._prompt.ids),
        )  # fmt: skip
        try:
            with closing(pieces):
                while True:
                    try:
                        piece = next(pieces)
                    except StopIteration as end:
                        reason = end.value
                        break
                    yield self._written(NO_ID, piece, why)
        except CloudError as error:
            self.stats.offline_reason = str(error)
            yield Notice(f"{error}; {GOING_ON}")
            return False
        finally:
            self.stats.wait_time += self._now - begun
        if reason == "stop":  # told in the device's own way
            yield self._written(min(self.text.end_ids, default=NO_ID), "", why)
        return True

    def _go_on(self, why: str) -> Iterator[Event]:
        """The device goes on where the endpoint broke off."""
        said = "".join(token.text for token in self.tokens)
        n = len(self.tokens)
        ids = [*self._prompt.ids, *self._device.vocab.tokenize(said)]
        self._local.text.rollback()
        left = max(1, self._prompt.max_tokens - n)
        local = self._alone(replace(self._prompt, ids=ids, max_tokens=left))
        with closing(local.events()) as events:
            for event in events:
                if isinstance(event, Token):
                    moved = replace(event, index=n + event.index, reason=why, unverified=True)
                    yield self._shown(replace(moved, time=self._now))

    def _alone(self, prompt: Prompt) -> ReplyLoop:
        session = Session(None, self._device.vocab)
        return ReplyLoop(self._device, session, Strategy("handoff", Never()), prompt, False)

    def _written(self, token_id: int, text: str, why: str) -> Token:
        token = Token(
            len(self.tokens), token_id, text, "cloud", None, True, None, False, self._now, why
        )
        return self._shown(token)

    def _shown(self, token: Token) -> Token:
        self.tokens.append(token)
        self.stats.add(token)
        return token

    @property
    def _now(self) -> float:
        return time.perf_counter() - self._begun
