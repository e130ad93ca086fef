"""One loaded model, one assistant per reply: the only module here that knows how a reply is made.

A reply may have its own sampler, seed, length and strategy. None of them belongs to the loaded
model, so an assistant of its own is made for each reply around the same device and verifier
session; the ids that the device has read stay.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ...common.errors import UsageError
from ...common.prompts import Message
from ...configs.config import Config, StrategyOptions
from ...configs.layers import changed
from ...lm.engines.protocol import Matching
from ..chat.adjust import PIPELINED, choose, handing
from ..chat.assemble import assemble
from ..chat.assistant import Assistant
from ..chat.binding import GrammarText, grammars_of, require_alone
from ..decode.handoff import Handoff
from ..events import Event
from ..link.protocol import Link
from ..link.session import Prompt
from ..policy.reward import RewardHead
from ..policy.strategy import Strategy
from .options import Key

if TYPE_CHECKING:
    from ...lm.engines.llama_grammar import Grammars

Grammar = Callable[[], Matching]
"""A grammar that was checked: called, it begins a text."""

_MOST_STRATEGIES = 32  # kept: an adaptive one has learnt something


Begun = tuple[Assistant, Generator[Event, None, None]]
"""A reply: what makes it and no other, and its events."""


class PromptTooLong(UsageError):
    """A conversation that leaves no room for a reply."""


class _Made(NamedTuple):
    """Of the options of a reply."""

    strategy: Strategy
    head: RewardHead | None
    handoff: Handoff | None


class _Continuer(Assistant):
    """Gives both models the text as it is, after their begin-of-text token."""

    def _fit(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        ids, n_ctx = self._ids(messages, self.device.vocab.bos), self.device.cache.engine.n_ctx
        if not 0 < len(ids) < n_ctx:
            raise UsageError(
                f"the prompt has {len(ids)} tokens, and a context of {n_ctx} must have room for "
                "one more"
            )
        return messages, ids

    def _prompt(self, ids: list[int], messages: list[Message]) -> Prompt:
        return replace(super()._prompt(ids, messages), messages=None)

    def _ids(self, messages: list[Message], bos: str) -> list[int]:
        return self.device.vocab.tokenize(bos + messages[0]["content"], special=True)


class Assistants:
    """The models of a configuration, loaded; close it when done.

    Attributes:
        base: what every reply has in common.

    Args:
        config: all options; those of a reply may differ from it.
        notify: takes one line for the user.
        link: to a verifier that is there already; None: as the configuration says.
        environment: of the process.

    Raises:
        UhlmError: see `assemble`.
    """

    def __init__(
        self,
        config: Config,
        notify: Callable[[str], None],
        link: Link | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.config = config
        self._environment = environment
        self._notify = notify
        self._stack = ExitStack()
        self._grammars: Grammars | None = None
        self.base = self._stack.enter_context(assemble(config, notify, link, environment))
        made = _Made(self.base.strategy, self.base.device.head, self.base.handoff)
        self._strategies: dict[StrategyOptions, _Made] = {config.strategy: made}

    def close(self) -> None:
        """Free the models and end the session with the verifier. Closing twice is fine."""
        self._stack.close()

    def write(
        self, messages: Sequence[Message], values: Mapping[Key, Any], grammar: Grammar | None = None
    ) -> Begun:
        """A reply to a conversation. Nothing is computed before its first event is asked for.

        Args:
            messages: the conversation, oldest first.
            values: what this reply has otherwise than the configuration.
            grammar: that it must match.

        Raises:
            ConfigError: a value out of range.
            PromptTooLong: the newest message alone does not fit the context.
        """
        return self._write(Assistant, messages, values, grammar)

    def write_on(
        self, prompt: str, values: Mapping[Key, Any], grammar: Grammar | None = None
    ) -> Begun:
        """The same, for a text to go on with as it is."""
        return self._write(_Continuer, [{"role": "user", "content": prompt}], values, grammar)

    def grammar(self, given: GrammarText) -> Grammar:
        """A grammar that replies can be bound to, checked.

        Raises:
            UsageError: see `Grammars.read`; or the model does not run on llama.cpp.
        """
        if self._grammars is None:
            self._grammars = self._stack.enter_context(closing(grammars_of(self.config)))
        return self._grammars.read(given)

    def _write(
        self,
        kind: type[Assistant],
        messages: Sequence[Message],
        values: Mapping[Key, Any],
        grammar: Grammar | None,
    ) -> Begun:
        config = changed(self.config, values, "option") if values else self.config
        options = config.strategy
        strategy, head, handoff = self._strategy(config)
        base = self.base
        if grammar is not None:
            require_alone(strategy, base.session)
        device = replace(
            base.device, sampler=config.sampler, head=head, measure=options.measure, grammar=grammar
        )
        assistant = kind(
            device,
            base.session,
            strategy,
            system=config.chat.system,
            max_tokens=config.chat.max_tokens,
            seed=secrets.randbits(63) if config.chat.seed is None else config.chat.seed,
            pipelined=PIPELINED[options.pipelined],
            budget=base.budget,
            handoff=handoff,
            chat=base.chat,  # a template is compiled once, or has one process of its own
            partners=base.partners,
        )
        try:
            return assistant, assistant.answer(messages)
        except UsageError as error:
            raise PromptTooLong(str(error)) from None

    def _strategy(self, config: Config) -> _Made:
        """The strategy of some options, and what it asks; made once."""
        if (known := self._strategies.get(config.strategy)) is not None:
            return known
        base, name, handoff = self.base, config.strategy.name, None
        base.require(name)
        more = base.device, base.session
        strategy, head = choose(config, *more, self._notify, self._environment)
        if base.handoff is not None and name == "handoff":
            endpoint = base.handoff.endpoint
            handoff = handing(config, *more, endpoint, self._notify, self._environment)
        while len(self._strategies) >= _MOST_STRATEGIES:
            del self._strategies[next(iter(self._strategies))]
        self._strategies[config.strategy] = made = _Made(strategy, head, handoff)
        return made
