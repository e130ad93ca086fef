"""A conversation with the device model: history, prompts that fit, replies."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

from ...common.errors import ConfigError, UsageError
from ...common.prompts import Message
from ...configs.config import StrategyName
from ...lm.chat import ChatEncoder
from ...lm.draws import turn_seed
from ..decode.drafter import Device
from ..decode.handoff import NO_ID, Handoff, HandoffLoop
from ..decode.loop import ReplyLoop
from ..decode.rotation import Partners, RotationLoop
from ..events import Event, Notice, Token
from ..link.budget import Budget
from ..link.session import Prompt, Session
from ..policy.strategy import STRATEGIES, Strategy

BACK_AGAIN = "the cloud answers again"
_CHARACTERS = 8  # in a token, hardly ever more: a conversation with more does not fit
_LEAST_ROOM = 64  # ids that a long conversation leaves for the reply


class Assistant:
    """Keeps the messages and makes replies.

    Args:
        device: the model on the device.
        session: with the verifier; it may be offline.
        strategy: when to ask it.
        system: system message, "" for none.
        max_tokens: ids of a reply at most.
        seed: of the first reply; the following ones derive theirs from it.
        pipelined: see ReplyLoop.
        known: what is wrong with the verifier, if the user knows already.
        budget: what the cloud may cost; None: nothing is counted.
        handoff: to whom strategy `handoff` hands a reply over, and when; None: that strategy
            needs another start.
        chat: makes ids of messages; None: by the template of the device's model.
        partners: further models on the device, which strategy `ensemble` needs no session for.
        alone: no verifier was looked for: strategies that ask one need another start.
    """

    def __init__(
        self,
        device: Device,
        session: Session,
        strategy: Strategy,
        system: str = "",
        max_tokens: int = 256,
        seed: int = 0,
        pipelined: bool | None = None,
        known: str | None = None,
        budget: Budget | None = None,
        handoff: Handoff | None = None,
        chat: ChatEncoder | None = None,
        partners: Partners | None = None,
        alone: bool = False,
    ) -> None:
        self.device = device
        self.session = session
        self.strategy = strategy
        self.messages: list[Message] = []
        self.loop: ReplyLoop | HandoffLoop | RotationLoop | None = None
        self._system: list[Message] = [{"role": "system", "content": system}] if system else []
        self._max_tokens = max_tokens
        self._seed = seed
        self._turn = 0
        self._pipelined = pipelined
        self._known = known
        self.budget = budget
        self.handoff = handoff
        self.partners = partners
        self._alone = alone
        self.chat = chat or ChatEncoder(device.vocab)

    def reset(self) -> None:
        """Forget the conversation; the system message stays."""
        self.messages.clear()

    def restart(self, turn: int) -> None:
        """Begin anew; the next reply has the seed that a conversation's reply `turn` has."""
        self.messages, self._turn = [], turn

    def reply(self, text: str) -> Generator[Event, None, None]:
        """The reply to what the user says next, event by event.

        However it ends, the messages then hold what was said: a reply that was interrupted is kept
        as far as it came. The loop of the newest reply is `self.loop`.

        Raises:
            UsageError: the text is empty, or alone too long for the context.
        """
        if not text.strip():
            raise UsageError("the prompt is empty; say something")
        return self._reply([*self.messages, {"role": "user", "content": text}])

    def answer(self, messages: Sequence[Message]) -> Generator[Event, None, None]:
        """The reply to a whole conversation, which replaces the one so far."""
        return self._reply(list(messages))

    def _reply(self, messages: list[Message]) -> Generator[Event, None, None]:
        kept, ids = self._fit(messages)  # refuses what does not fit before anything is said
        return self._events(messages, kept, ids)

    def _events(
        self, messages: list[Message], kept: list[Message], ids: list[int]
    ) -> Generator[Event, None, None]:
        if len(kept) < len(messages):
            dropped = len(messages) - len(kept)
            yield Notice(
                f"the conversation is longer than the context of {self.device.cache.engine.n_ctx} "
                f"tokens: the oldest {dropped} messages are left out"
            )
            if self.device.slide != "none":
                self.device.cache.slide(ids)
        if self.budget is not None:
            self.budget.begin_reply()
        slides = len(kept) < len(messages) and self.device.slide == "both"
        self.loop = loop = self._loop(replace(self._prompt(ids, kept), slides=slides))
        self.messages = messages
        self._turn += 1
        try:
            with closing(loop.events()) as events:
                for event in events:
                    yield from self._news(event)
        finally:
            self.messages.append({"role": "assistant", "content": self.text})
            self.strategy.policy.save()

    def _loop(self, prompt: Prompt) -> ReplyLoop | HandoffLoop | RotationLoop:
        if self.strategy.name == "handoff" and self.handoff is not None:
            return HandoffLoop(self.device, self.handoff, prompt)
        if self.strategy.name == "ensemble" and self.partners is not None:
            return RotationLoop(self.device, self.partners, self.strategy, prompt)
        return ReplyLoop(self.device, self.session, self.strategy, prompt, self._pipelined)

    def _prompt(self, ids: list[int], messages: list[Message]) -> Prompt:
        seed = turn_seed(self._seed, self._turn)
        return Prompt(ids, self._system + messages, seed, self._max_tokens)

    def _news(self, event: Event) -> Iterator[Event]:
        """Leave out what the user knows already; say so when the verifier answers again."""
        if isinstance(event, Notice):
            known, self._known = self._known, event.text
            if known == event.text:
                return
        elif self._known and isinstance(event, Token) and event.uploaded and not event.unverified:
            self._known = None
            yield Notice(BACK_AGAIN)
        yield event

    @property
    def strategies(self) -> tuple[StrategyName, ...]:
        """Those that a reply can choose from, with what was loaded."""
        if self.handoff is not None:
            return ("local", "handoff")
        if self.partners is not None:
            return ("local", "ensemble")
        if self._alone:
            return ("local",)
        return tuple(name for name in STRATEGIES if name != "handoff")

    def require(self, name: StrategyName) -> None:
        """Raises ConfigError: that strategy needs what was not loaded."""
        if name not in self.strategies:
            raise ConfigError(
                f"strategy.name: here it can be {', '.join(self.strategies)}; {name} needs "
                f"another start, with --strategy {name}"
            )

    @property
    def threshold(self) -> float | None:
        """What the next reply begins with; None: the strategy has none."""
        if self.strategy.name == "handoff" and self.handoff is not None:
            return self.handoff.threshold
        return self.strategy.policy.threshold

    def set_options(
        self, system: str, max_tokens: int, pipelined: bool | None, seed: int | None
    ) -> None:
        """Other options from the next reply on; a seed of None keeps the one there is."""
        self._system = [{"role": "system", "content": system}] if system else []
        self._max_tokens, self._pipelined = max_tokens, pipelined
        if seed is not None:
            self._seed = seed

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """How the newest reply ended: by itself, at the limit; None: it was interrupted."""
        loop = self.loop
        if loop is None or not loop.text.ended:
            return None
        return "stop" if loop.tokens and loop.tokens[-1].id in loop.text.end_ids else "length"

    def costs(self) -> dict[str, Any] | None:
        """What the newest reply cost, and what is spent of the budget if there is one."""
        if self.loop is None:
            return None
        budget = {} if self.budget is None else {"budget": self.budget.to_json()}
        return {**self.loop.stats.to_json(), **budget}

    def draft_text(self, token: Token) -> str | None:
        """What the device had proposed where `token` of the newest reply stands, if anything."""
        if self.loop is None or token.id == NO_ID:
            return None
        draft = self.loop.text.proposed.get(token.index)
        return None if draft is None else self.device.vocab.text([draft.id])

    @property
    def text(self) -> str:
        """The newest reply so far."""
        return "".join(token.text for token in self.loop.tokens) if self.loop else ""

    def _fit(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        """The newest messages that leave room for a reply, and their ids."""
        n_ctx = self.device.cache.engine.n_ctx
        room = n_ctx - min(self._max_tokens, _LEAST_ROOM, n_ctx // 2)
        # A conversation begins with the user.
        starts = [0, *(i for i, m in enumerate(messages) if i and m["role"] == "user")]

        def encoded(start: int) -> list[int]:
            return self.chat.encode(self._system + messages[starts[start] :])

        low, high, step = 0, len(starts) - 1, 1
        # Mostly all of it fits. If not, what is tried is never much longer than the context: so a
        # turn of a long conversation takes no more time than those before.
        if sum(len(message["content"]) for message in messages) <= _CHARACTERS * room:
            ids = encoded(0)
            if len(ids) <= room:
                return messages, ids
            low = min(1, high)
        best = encoded(high)
        if len(best) > room:
            raise UsageError(
                f"the prompt has {len(best)} tokens, and a context of {n_ctx} has room for "
                f"{room} beside a reply; shorten it"
            )
        is_over = False  # something did not fit: now it is between low and high
        while low < high:
            probe = (low + high) // 2 if is_over else max(low, high - step)
            ids = encoded(probe)
            if len(ids) <= room:
                high, best, step = probe, ids, 2 * step
            else:
                low, is_over = probe + 1, True
        return messages[starts[high] :], best
