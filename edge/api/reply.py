"""A reply for programs: tokens as they come, then text, statistics and why it ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, closing
from dataclasses import dataclass, field
from typing import Any, Literal

from ...common.worker import Worker
from ...lm.ids import common_length
from ..chat.assistant import Assistant
from ..decode.handoff import NO_ID
from ..events import Draft, Event, Notice, SkippedVerdict, Token
from ..stats import Stats
from .stops import until_stop

FinishReason = Literal["stop", "length"]
Provenance = Literal["device", "confirmed", "replaced", "unverified"]


def provenance(token: Token) -> Provenance:
    """Who wrote a token: the device alone, the device with the cloud's consent, or the cloud.

    `unverified`: a verdict was wanted, and the verifier was away.
    """
    if token.source == "cloud":
        return "replaced"
    if token.accepted:
        return "confirmed"
    return "unverified" if token.unverified else "device"


@dataclass
class _Written:
    """What has come of a reply. The generator that writes it knows this and not the `Reply`, so
    that a reply that is dropped is closed at once."""

    tokens: list[Token] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    verdicts: list[SkippedVerdict] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    ended_by_itself: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    budget: dict[str, Any] | None = None


class Reply(Iterator[Token]):
    """Iterate it for the tokens of a reply; each is final when it comes.

    Nothing is computed before the first token is asked for. A reply that is not read to its end
    must be closed (`with reply:`, `reply.close()`, or by dropping it) before the next one can be
    written.

    Attributes:
        tokens: so far.
        notices: what the user should know, such as that the verifier went away.
        verdicts: what later calls told about tokens that had been skipped.
    """

    def __init__(
        self,
        assistant: Assistant,
        events: Generator[Event, None, None],
        stops: Sequence[str],
        device: AbstractContextManager[object],
    ) -> None:
        self._written = written = _Written()
        self.tokens = written.tokens
        self.notices = written.notices
        self.verdicts = written.verdicts
        self._assistant = assistant
        committed = _committed(assistant, events, written)
        self._generator = _write(committed, [stop for stop in stops if stop], device, written)

    def __iter__(self) -> Reply:
        return self

    def __next__(self) -> Token:
        return next(self._generator)

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self.text

    def close(self) -> None:
        """End it here; what came stays."""
        self._generator.close()

    def read(self) -> Reply:
        """Read it to its end."""
        for _ in self:
            pass
        return self

    @property
    def finish_reason(self) -> FinishReason | None:
        """`stop`: the text ended, or a stop text appeared; `length`: the limit of tokens was
        reached; None: not finished, or closed early."""
        return self._written.finish_reason

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(token.text for token in self.tokens)

    @property
    def stats(self) -> Stats:
        """What it cost: uploads, bytes, times. Complete when the reply has ended."""
        loop = self._assistant.loop
        return Stats(self._assistant.strategy.name) if loop is None else loop.stats

    @property
    def budget(self) -> dict[str, Any] | None:
        """What was spent of the budget when it had ended, per span (reply, session, day), and its
        caps; None: no budget is configured."""
        return self._written.budget

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt. Known when the reply has ended."""
        return self._written.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the device had read before. Known when it has ended."""
        return self._written.cached_tokens

    def draft(self, token: Token) -> Draft | None:
        """What the device had proposed where a token stands, and from which distribution."""
        loop = self._assistant.loop
        known = [] if loop is None or token.id == NO_ID else loop.text.proposals
        return known[token.index] if token.index < len(known) else None

    def draft_text(self, token: Token) -> str | None:
        """The text of that proposal; None if there was none (strategy `cloud`)."""
        draft = self.draft(token)
        return None if draft is None else self.piece(draft.id).decode("utf-8", "replace")

    def piece(self, token_id: int) -> bytes:
        """The bytes that an id adds to a text; of a control token, nothing."""
        return b"" if token_id == NO_ID else self._assistant.device.vocab.text_bytes(token_id)


def _write(
    committed: Generator[Token, None, None],
    stops: Sequence[str],
    device: AbstractContextManager[object],
    written: _Written,
) -> Generator[Token, None, None]:
    with device, closing(committed):
        tokens: Generator[Token, None, object] = (
            until_stop(committed, stops) if stops else committed
        )
        while True:
            try:
                token = next(tokens)
            except StopIteration as end:
                written.finish_reason = "stop" if end.value or written.ended_by_itself else "length"
                return
            written.tokens.append(token)
            yield token


def _committed(
    assistant: Assistant, events: Generator[Event, None, None], written: _Written
) -> Generator[Token, None, None]:
    cache = assistant.device.cache
    held = cache.ids[: cache.engine.length]
    try:
        for event in events:
            if isinstance(event, Token):
                yield event
            elif isinstance(event, Notice):
                written.notices.append(event.text)
            else:
                written.verdicts.append(event)
    finally:
        events.close()
        if assistant.budget is not None:
            written.budget = assistant.budget.to_json()
        if (loop := assistant.loop) is not None:
            written.prompt_tokens = loop.text.origin
            # Is the last token the end of the text, for one of the two models?
            last = loop.tokens[-1].id if loop.tokens else None
            written.ended_by_itself = last in loop.text.end_ids
            # The last id of a prompt is read in any case.
            written.cached_tokens = common_length(held, cache.ids[: loop.text.origin - 1])


class AsyncReply:
    """A reply that is written in the device's thread.

    `await` it for the finished `Reply`, or iterate it (`async for`) for tokens as they come; then
    `reply` has statistics and text. A loop that is left early ends the reply within one token.
    """

    def __init__(self, reply: Reply, worker: Callable[[], Worker]) -> None:
        self.reply = reply
        self._worker = worker

    def __aiter__(self) -> AsyncGenerator[Token, None]:
        return self._tokens()

    def __await__(self) -> Generator[object, None, Reply]:
        return self._read().__await__()

    async def _read(self) -> Reply:
        async for _ in self.batches(whole=True):
            pass
        return self.reply

    async def _tokens(self) -> AsyncGenerator[Token, None]:
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                for token in batch:
                    yield token

    async def batches(self, whole: bool = False) -> AsyncGenerator[list[Token], None]:
        """All tokens that have come since it was last looked: at least one, and none waits.

        Args:
            whole: one batch, at the end. What is not looked at costs nobody a wake-up.
        """
        loop = asyncio.get_running_loop()
        written: list[Token] = []
        news = asyncio.Event()
        left = threading.Event()
        told = False  # a wake-up is under way

        def write(_: int) -> None:
            nonlocal told
            with self.reply:
                for token in self.reply:
                    if left.is_set():
                        return
                    written.append(token)
                    if not (told or whole):
                        told = True
                        loop.call_soon_threadsafe(news.set)

        job = self._worker().submit(write)
        ended = asyncio.wrap_future(job)
        ended.add_done_callback(lambda _: news.set())
        try:
            while not ended.done() or written:
                await news.wait()
                news.clear()
                told = False  # before the look, so that what comes after it is told
                if n := len(written):
                    yield written[:n]
                    del written[:n]
            await ended
        finally:
            left.set()
            if not ended.cancel() and not ended.cancelled():
                ended.exception()  # of a reply that nobody waits for: seen, and not complained of
