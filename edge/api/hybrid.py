"""`Hybrid`: the device model, and the verifier it may ask, for Python programs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...common.errors import UsageError
from ...common.prompts import Message
from ...common.worker import Worker
from ...configs.config import Config, StrategyName, StrategyOptions
from ...configs.layers import load_config
from ..chat.binding import GrammarText
from ..link.budget import Budget
from ..link.protocol import Link
from .assistants import Assistants, Grammar
from .options import keys_of, reply_keys_of
from .reply import AsyncReply, Reply

Messages = Sequence[Mapping[str, object]]
"""`{"role": ..., "content": ...}` each, oldest first; roles: system, user, assistant."""

_ROLES = ("system", "user", "assistant")


class Hybrid:
    """A small model on this device that asks a large one in the cloud only when it is unsure.

    ```python
    with Hybrid.load("demo") as hybrid:
        for token in hybrid.generate([{"role": "user", "content": "What is the capital of Peru?"}]):
            print(token.text, end="", flush=True)
    ```

    One device model writes one reply at a time. Other threads wait for their turn.

    Attributes:
        config: all options, frozen.
        messages: the conversation that `chat` keeps.
    """

    def __init__(
        self,
        config: Config,
        notify: Callable[[str], None] | None = None,
        link: Link | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.config = config
        self.messages: list[Message] = []
        self._assistants = Assistants(config, notify or (lambda _: None), link, environment)
        self._busy = threading.Lock()
        self._writer: int | None = None
        self._worker: Worker | None = None

    @classmethod
    def load(
        cls,
        profile: str | None = None,
        *,
        config_file: Path | None = None,
        notify: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Hybrid:
        """Load the models of a profile.

        Args:
            profile: named profile; None: as `UHLM_PROFILE` says, else `demo`.
            config_file: a configuration file (TOML) in place of the user's own.
            notify: takes lines for the user, such as that there is no verifier.
            options: named as the flags of `uhlm-edge run` are (`model="small.gguf"`,
                `cloud="https://example.org"`, `strategy="uhlm"`, `threshold=0.2`, `offline=True`),
                or sections of the configuration (`device={"engine": {"n_ctx": 2048}}`).

        Raises:
            UsageError: an option that does not exist, or a value out of range.
            ModelError: a model is refused.
            CloudError: no verifier, and one is required.
        """
        return cls(load_config(keys_of(options), profile, config_file).config, notify)

    def __enter__(self) -> Hybrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the models, and stop a verifier that was started for this. Twice is fine."""
        if self._worker is not None:
            self._worker.close()
        self._assistants.close()

    def generate(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        stop: str | Sequence[str] = (),
        grammar: GrammarText | Grammar | None = None,
        **options: Any,
    ) -> Reply:
        """The reply to a conversation, token by token.

        Args:
            messages: `{"role": ..., "content": ...}` each, oldest first; roles: system, user,
                assistant.
            stop: the reply ends before any of these texts.
            grammar: the reply matches it, or was cut off by `max_tokens`: GBNF text, a JSON schema,
                or what `read_grammar` returned. Only for what the device writes alone: strategy
                `local`, `handoff`, or no verifier.
            options: of this reply alone: `max_tokens`, `seed`, `temperature`, `top_k`, `top_p`,
                `min_p`, `strategy`, `threshold`, `system` and others of `REPLY_OPTIONS`.

        Raises:
            UsageError: an option or a message that cannot be used, or too many of them.
        """
        values = reply_keys_of(options)
        begun = self._assistants.write(_checked(messages), values, self._grammar(grammar))
        return Reply(*begun, [stop] if isinstance(stop, str) else stop, self._device())

    def complete(
        self,
        prompt: str,
        *,
        stop: str | Sequence[str] = (),
        grammar: GrammarText | Grammar | None = None,
        **options: Any,
    ) -> Reply:
        """Go on with a text as it is, without a chat template. Names of control tokens count.

        Raises:
            UsageError: see `generate`.
        """
        values = reply_keys_of(options)
        begun = self._assistants.write_on(prompt, values, self._grammar(grammar))
        return Reply(*begun, [stop] if isinstance(stop, str) else stop, self._device())

    def read_grammar(self, grammar: GrammarText) -> Grammar:
        """Check GBNF text or a JSON schema, for `grammar` of several replies.

        Raises:
            UsageError: it cannot be read, matches nothing, or takes too much time or memory.
        """
        return self._assistants.grammar(grammar)

    def _grammar(self, given: GrammarText | Grammar | None) -> Grammar | None:
        return given if given is None or callable(given) else self.read_grammar(given)

    def chat(
        self,
        text: str,
        *,
        stop: str | Sequence[str] = (),
        grammar: GrammarText | Grammar | None = None,
        **options: Any,
    ) -> Reply:
        """Say something and wait for the whole reply; the conversation goes on with both.

        Raises:
            UsageError: see `generate`; the conversation is as before.
        """
        if not text.strip():
            raise UsageError("the prompt is empty; say something")
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        reply = self.generate(messages, stop=stop, grammar=grammar, **options).read()
        self.messages = [*messages, {"role": "assistant", "content": reply.text}]
        return reply

    def reset(self) -> None:
        """Forget the conversation that `chat` keeps."""
        self.messages = []

    def agenerate(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        stop: str | Sequence[str] = (),
        grammar: GrammarText | Grammar | None = None,
        **options: Any,
    ) -> AsyncReply:
        """The same as `generate` for asyncio: `await` the whole reply, or `async for` its tokens.

        Replies that are asked for at the same time are written one after another.
        """
        return self.asynchronous(self.generate(messages, stop=stop, grammar=grammar, **options))

    def asynchronous(self, reply: Reply) -> AsyncReply:
        """A reply that nobody has read from, to be written in the device's thread."""
        return AsyncReply(reply, self._thread)

    @property
    def device(self) -> str:
        """Name of the device model."""
        return str(self.config.device.model).rsplit("/", 1)[-1].removesuffix(".gguf")

    @property
    def verifier(self) -> str | None:
        """Name of the verifier's model, once it has told; None before, or without one."""
        info = self._assistants.base.session.info
        return None if info is None else info.model

    @property
    def budget(self) -> Budget | None:
        """What the cloud may cost, and has cost; None: nothing is counted."""
        return self._assistants.base.budget

    @property
    def has_verifier(self) -> bool:
        """Is there one to ask, whether or not it answers just now?"""
        base = self._assistants.base
        handed = base.handoff is not None and base.handoff.endpoint is not None
        return handed or not base.session.is_offline

    @property
    def strategies(self) -> tuple[StrategyName, ...]:
        """What a reply can choose from, with what was loaded."""
        return self._assistants.base.strategies

    @property
    def scores(self) -> dict[str, str | None]:
        """What the threshold of each of `strategies` is of; None: it has none."""
        by = self.config.strategy.ask_by
        return {name: StrategyOptions(name=name, ask_by=by).score for name in self.strategies}

    @property
    def n_ctx(self) -> int:
        """Tokens that the device's context holds, prompt and reply together."""
        return self._assistants.base.device.cache.engine.n_ctx

    def _thread(self) -> Worker:
        if self._worker is None:
            self._worker = Worker("uhlm-device", limit=1 << 16)
        return self._worker

    @contextmanager
    def _device(self) -> Iterator[None]:
        """The device model, for one reply."""
        if self._writer == threading.get_ident():
            raise UsageError("another reply is being written; read it to its end, or close() it")
        with self._busy:
            self._writer = threading.get_ident()
            try:
                yield
            finally:
                self._writer = None


def _checked(messages: Messages) -> list[Message]:
    if not messages:
        raise UsageError("there are no messages to reply to")
    checked: list[Message] = []
    for number, message in enumerate(messages, 1):
        if set(message) != {"role", "content"} or message["role"] not in _ROLES:
            raise UsageError(
                f"message {number} must be {{'role': ..., 'content': ...}} with one of the roles "
                f"{', '.join(_ROLES)}"
            )
        role, content = message["role"], message["content"]
        if not isinstance(content, str):
            raise UsageError(f"the content of message {number} must be a text")
        checked.append({"role": str(role), "content": content})
    return checked
