"""A conversation with the device model: history, prompts that fit, replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from ...common.errors import UsageError
from ...lm.chat import ChatEncoder
from ...lm.draws import turn_seed
from ...lm.template import Message
from ...wire.messages import Info
from ..decode.loop import Device, Prompt, ReplyLoop
from ..events import Event, Notice, Token
from ..link.session import Remote
from ..policy.strategy import Strategy

__all__ = ["Assistant"]

_LEAST_ROOM = 64  # ids that a long conversation leaves for the reply


class Assistant:
    """Keeps the messages and makes replies.

    Args:
        device: the model on the device.
        remote: the session with the verifier; None to stay offline.
        strategy: when to ask it.
        system: system message, "" for none.
        max_tokens: ids of a reply at most.
        seed: of the first reply; the following ones derive theirs from it.
        pipelined: see ReplyLoop.
        told: what is wrong with the verifier, if the user knows already.
    """

    def __init__(
        self,
        device: Device,
        remote: Remote | None,
        strategy: Strategy,
        system: str = "",
        max_tokens: int = 256,
        seed: int = 0,
        pipelined: bool | None = None,
        told: str | None = None,
    ) -> None:
        self.device = device
        self.remote = remote
        self.strategy = strategy
        self.messages: list[Message] = []
        self.loop: ReplyLoop | None = None
        self._system: list[Message] = [{"role": "system", "content": system}] if system else []
        self._max_tokens = max_tokens
        self._seed = seed
        self._turn = 0
        self._pipelined = pipelined
        self._told = told
        self._own_chat = ChatEncoder(device.vocab)
        self._remote_chat: tuple[object, ChatEncoder] | None = None

    def reset(self) -> None:
        """Forget the conversation; the system message stays."""
        self.messages.clear()

    def reply(self, text: str) -> Iterator[Event]:
        """The reply to what the user says next, event by event.

        However it ends, the messages then hold what was said: a reply that was interrupted is kept
        as far as it came. The loop of the newest reply is `self.loop`.

        Raises:
            UsageError: the text is empty, or alone too long for the context.
        """
        if not text.strip():
            raise UsageError("the prompt is empty; say something")
        return self._reply([*self.messages, {"role": "user", "content": text}])

    def answer(self, messages: Sequence[Message]) -> Iterator[Event]:
        """The reply to a whole conversation, which replaces the one so far."""
        return self._reply(list(messages))

    def _reply(self, messages: list[Message]) -> Iterator[Event]:
        kept, ids = self._fit(messages)  # refuses what does not fit before anything is said
        return self._events(messages, kept, ids)

    def _events(
        self, messages: list[Message], kept: list[Message], ids: list[int]
    ) -> Iterator[Event]:
        if len(kept) < len(messages):
            dropped = len(messages) - len(kept)
            yield Notice(
                f"the conversation is longer than the context of {self.device.tape.engine.n_ctx} "
                f"ids: the oldest {dropped} messages are left out"
            )
        prompt = Prompt(
            ids,
            lambda info: self._render_remote(info, kept),
            turn_seed(self._seed, self._turn),
            self._max_tokens,
        )
        self.loop = loop = ReplyLoop(
            self.device, self.remote, self.strategy, prompt, self._pipelined
        )
        self.messages = messages
        self._turn += 1
        try:
            with closing(loop.events()) as events:
                yield from filter(self._is_news, events)
        finally:
            self.messages.append({"role": "assistant", "content": self.text})
            self.strategy.policy.save()

    def _is_news(self, event: Event) -> bool:
        """False for what the user was told already, until the verifier has answered again."""
        if isinstance(event, Notice):
            known, self._told = self._told, event.text
            return known != event.text
        if isinstance(event, Token) and (event.accepted is not None or event.source == "cloud"):
            self._told = None
        return True

    @property
    def text(self) -> str:
        """The newest reply so far."""
        return "".join(token.text for token in self.loop.tokens) if self.loop else ""

    def _fit(self, messages: list[Message]) -> tuple[list[Message], list[int]]:
        """The newest messages that leave room for a reply, and their ids."""
        n_ctx = self.device.tape.engine.n_ctx
        room = n_ctx - min(self._max_tokens, _LEAST_ROOM, n_ctx // 2)
        first = 0
        while True:
            kept = messages[first:]
            ids = self._own_chat.encode(self._system + kept)
            if len(ids) <= room:
                return kept, ids
            # A conversation begins with the user.
            later = [i for i, m in enumerate(messages) if i > first and m["role"] == "user"]
            if not later:
                raise UsageError(
                    f"the prompt has {len(ids)} ids, and a context of {n_ctx} has room for "
                    f"{room} beside a reply; shorten it"
                )
            first = later[0]

    def _render_remote(self, info: Info, messages: list[Message]) -> list[int]:
        owner = info.template, info.bos, info.eos
        if self._remote_chat is None or self._remote_chat[0] != owner:
            self._remote_chat = owner, ChatEncoder(self.device.vocab, info)
        return self._remote_chat[1].encode(self._system + messages)
