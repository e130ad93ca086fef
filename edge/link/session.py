"""The conversation as the verifier holds it: what must be sent, and what came back."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...common.errors import (
    CloudError,
    DeadlineExceeded,
    ModelError,
    Overloaded,
    ProtocolError,
    Refused,
    VocabularyMismatch,
)
from ...common.worker import Worker
from ...lm.draws import SCHEME
from ...lm.sampling import Sampler
from ...lm.targets import Target
from ...lm.vocabulary import Vocabulary, require_same
from ...wire.codec import require
from ...wire.messages import (
    Conflict,
    Info,
    Limits,
    Malformed,
    Reply,
    Request,
    Settings,
    prefix_hash,
)
from ..events import Draft
from .breaker import Breaker
from .http import Deadline, Link
from .latency import LatencyModel

__all__ = ["Call", "Remote"]


@dataclass(frozen=True)
class Call:
    """A call under way."""

    future: Future[_Answer]
    deadline: Deadline
    begun: float
    drafts: Sequence[Draft]
    skipped: Sequence[Draft]
    weigh: bool = False

    @property
    def done(self) -> bool:
        """Is the answer (or the failure) there?"""
        return self.future.done()

    def n_judged(self, reply: Reply) -> int:
        """How many of its drafts the reply has a beta of, as the last of its betas."""
        return 0 if self.weigh else min(reply.accepted + 1, len(self.drafts))


@dataclass(frozen=True)
class _Order:
    """What a call is made of: the books as they were when it was submitted."""

    id: int
    render: Callable[[Info], list[int]]
    settings: Settings
    settings_sent: bool
    held: int
    text: tuple[int, ...] | None  # None: the prompt is not rendered yet; then `tail` follows it
    tail: tuple[int, ...]
    drafts: tuple[Draft, ...]
    skipped: tuple[Draft, ...]
    supply: int
    weigh: bool
    deadline: Deadline


class _Answer(NamedTuple):
    """What a call brought back: the reply, and the text and settings that it is about."""

    reply: Reply
    text: tuple[int, ...]
    settings: Settings


class Remote:
    """One session with a verifier: ids, what of them it holds, calls one at a time.

    Nothing is sent before the first upload. Ids that the verifier lacks ride along with the next
    call; if it forgot the session, one re-send brings everything back.

    Args:
        link: how calls get there.
        vocab: the device's, compared with the verifier's.
        name: of the device model, for messages.
        deadline: seconds that a whole call may take, tries and re-send included.
        breaker: keeps calls back while the verifier is away.
    """

    def __init__(
        self,
        link: Link,
        vocab: Vocabulary,
        name: str,
        deadline: float = 10.0,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.link = link
        self.info: Info | None = None
        self.pace = LatencyModel()
        self._vocab = vocab
        self._name = name
        self._seconds = deadline
        self._breaker = breaker or Breaker()
        self._clock = clock
        self._session_id = secrets.token_hex(16)
        self._worker = Worker("uhlm-link")
        self._render: Callable[[Info], list[int]] = lambda _: []
        self._settings = Settings()
        self._settings_sent = False
        self._ids: list[int] | None = None  # the prompt as the verifier's template has it, and on
        self._tail: list[int] = []  # of the reply, while the prompt is not rendered yet
        self._skipped: list[Draft] = []  # settled without the verifier since its last answer
        self._held = 0
        self._calls = 0
        self._deadline = Deadline(0.0)  # of the newest call

    @property
    def ready(self) -> bool:
        """May an upload go out now?"""
        return self._breaker.ready

    @property
    def n_skipped(self) -> int:
        """Tokens settled without the verifier since its last answer."""
        return len(self._skipped)

    def connect(self, deadline: Deadline | None = None) -> Info:
        """Ask who the verifier is, if not known yet.

        Raises:
            CloudError: no answer.
            VocabularyMismatch: it runs a model with another vocabulary.
        """
        if self.info is None:
            info = self.link.info(deadline or Deadline(self._seconds))
            require_same(self._vocab.fingerprint, info.fingerprint, self._name, info.model)
            if info.random != SCHEME:
                raise Refused(f"the verifier draws by {info.random}, not {SCHEME}; update one")
            self.info = info
        return self.info

    def begin(
        self, render: Callable[[Info], list[int]], sampler: Sampler, target: Target, seed: int
    ) -> None:
        """A new reply: a new prompt and seed. Nothing is sent yet."""
        self._render = render
        self._settings = Settings(sampler=sampler, target=target, seed=seed)
        self._settings_sent = False
        old, self._ids = self._ids or [], None
        self._tail, self._skipped = [], []
        if self.info is not None:
            with contextlib.suppress(ModelError):  # the first call will say so
                self._ids = self._render(self.info)
        # What the old text and the new prompt have in common is held already.
        new = self._ids or []
        self._settings = self._settings.model_copy(update={"origin": len(new)})
        differ = (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
        self._held = min(self._held, next(differ, min(len(old), len(new))))

    def close(self) -> None:
        """Let the thread end. Closing twice is fine."""
        self._worker.retire()

    def skip(self, draft: Draft) -> None:
        """A draft was settled without the verifier."""
        self._skipped.append(draft)
        self.append(draft.id)

    def append(self, token: int) -> None:
        """A token was settled on the device, and its beta is of no interest."""
        (self._tail if self._ids is None else self._ids).append(token)

    def keep(self, tokens: Sequence[int]) -> None:
        """The device settled tokens that the verifier holds already."""
        if self._ids is not None:
            self._ids += tokens
            self._held += len(tokens)

    def submit(self, drafts: Sequence[Draft], supply: int = 0, weigh: bool = False) -> Call:
        """Ask about drafts, or for tokens.

        Args:
            drafts: to judge, in order.
            supply: how many tokens the LLM may add.
            weigh: send the drafts as if they had been skipped: the verifier judges nothing.
        """
        self._breaker.begin()
        self._calls = (self._calls + 1) % 2**32
        self._deadline = Deadline(self._seconds)
        order = _Order(
            self._calls, self._render, self._settings, self._settings_sent, self._held,
            None if self._ids is None else tuple(self._ids), tuple(self._tail),
            tuple(drafts), tuple(self._skipped), supply, weigh, self._deadline,
        )  # fmt: skip
        future = self._worker.submit(lambda _: self._exchange(order))
        begun = self._clock()
        return Call(future, self._deadline, begun, order.drafts, order.skipped, weigh)

    def _exchange(self, order: _Order) -> _Answer:
        """Runs in the worker: one call, and one re-send if the verifier lacks what we thought.

        It changes nothing in the books: nobody may be waiting for it any more.
        """
        info = self.connect(order.deadline)
        text, settings = order.text, order.settings
        if text is None:
            try:
                prompt = order.render(info)
            except ModelError as error:  # its template comes from the verifier
                raise Refused(f"{info.model} (cloud): {error}") from None
            settings = settings.model_copy(update={"origin": len(prompt)})
            text = (*prompt, *order.tail)
        ids = [*text, *(draft.id for draft in order.drafts)]
        room = info.n_ctx - len(ids)
        if room < min(order.supply, 1):
            raise CloudError(f"the text is longer than the context of {info.model} (cloud)")
        weighed = [*order.skipped, *order.drafts] if order.weigh else order.skipped
        request = Request(
            id=order.id,
            start=0,
            prefix=b"",
            tokens=ids,
            weights=[draft.weight for draft in weighed],
            drafts=[] if order.weigh else [draft.q for draft in order.drafts],
            supply=min(order.supply, room),
            settings=settings,
        )
        sent = order.settings_sent
        answer = self._send(request, order.held, sent, info.limits, order.deadline)
        if isinstance(answer, Conflict):
            held = answer.held if _agrees(answer, ids) else 0
            answer = self._send(request, held, False, info.limits, order.deadline)
        if isinstance(answer, Conflict):
            raise ProtocolError("the verifier forgets what it was just sent")
        if order.weigh:
            self._check_contrasts(answer, len(order.drafts))
        return _Answer(answer, text, settings)

    def _send(
        self, whole: Request, start: int, settings_sent: bool, limits: Limits, deadline: Deadline
    ) -> Reply | Conflict:
        """`whole.tokens` are all ids; send those from `start` on, in several calls if too many."""
        ids, n_drafts, n_vocab = whole.tokens, len(whole.drafts), len(self._vocab)
        # What is judged or weighed goes in the last call, after one id at least, and must not be
        # held yet, or its rows would be gone.
        room = min(limits.tokens_per_call, len(ids) - 1) - n_drafts
        n_weights = max(0, min(len(whole.weights), limits.weights_per_call, room))
        first = max(0, len(ids) - n_drafts - n_weights)
        start = min(start, first)
        while len(ids) - start > limits.tokens_per_call:
            end = min(start + limits.tokens_per_call, first)
            part = replace(
                whole, start=start, prefix=prefix_hash(ids[:start]), tokens=ids[start:end],
                weights=(), drafts=(), supply=0, id=(whole.id + start + 2**31) % 2**32,
            )  # fmt: skip
            answer = self.link.verify(self._session_id, part, n_vocab, deadline)
            if isinstance(answer, Conflict):
                return answer
            start = end
        part = replace(
            whole,
            start=start,
            prefix=prefix_hash(ids[:start]),
            tokens=ids[start:],
            weights=whole.weights[len(whole.weights) - n_weights :],
            settings=None if settings_sent and start > 0 else whole.settings,
        )
        return self.link.verify(self._session_id, part, n_vocab, deadline)

    def _check_contrasts(self, reply: Reply, n: int) -> None:
        """Refuse a reply without the laws that the drafts are to be judged by."""
        try:
            require(len(reply.distributions) >= n, Malformed, "laws are missing")
            for raw in reply.distributions:
                Reply.contrast_from(raw, len(self._vocab))
        except Malformed as error:
            raise ProtocolError(f"the verifier answered nonsense: {error}") from None

    def conclude(self, call: Call) -> Reply:
        """Wait for a call's answer and take it into the books.

        Raises:
            CloudError: it failed; the books are as if it had never been made.
            VocabularyMismatch: the verifier turned out to run another family.
        """
        try:
            reply, text, settings = call.future.result(timeout=call.deadline.left)
        except NotYet:
            self.abandon()
            self._fail(call, None)
            raise DeadlineExceeded(f"the verifier took longer than {self._seconds:g} s") from None
        except (Refused, VocabularyMismatch):
            self._breaker.give_up()
            raise
        except CloudError as error:
            self._fail(call, error)
            raise
        except BaseException:  # such as an interrupt while it waits
            self.abandon()
            raise
        self._breaker.succeed()
        positions = max(1, reply.held - self._held)
        self.pace.called(self._clock() - call.begun, reply.us.model / 1e6, positions)
        self.pace.judged(list(reply.betas[len(reply.betas) - call.n_judged(reply) :]))
        if self._ids is None:
            self._ids = list(text)
        self._settings, self._settings_sent = settings, True
        self._ids += [draft.id for draft in call.drafts[: reply.accepted]]
        self._ids += reply.tokens
        self._held = min(reply.held, len(self._ids))
        del self._skipped[: len(call.skipped)]
        return reply

    def _fail(self, call: Call, error: CloudError | None) -> None:
        retry_after = error.retry_after if isinstance(error, Overloaded) else None
        cost = None if error is None else error.cost
        self._breaker.fail(self._clock() - call.begun if cost is None else cost, retry_after)

    def abandon(self) -> None:
        """Stop waiting for a call; its thread and connection are left to end by themselves."""
        self._deadline.cancel()
        self.link.reset()
        self._worker.retire()
        self._worker = Worker("uhlm-link")
        self._breaker.abandon()
        self._settings_sent = False


def _agrees(conflict: Conflict, ids: Sequence[int]) -> bool:
    """Is what the verifier holds the beginning of our own text?"""
    held = conflict.held
    return held <= len(ids) and conflict.held_prefix == prefix_hash(ids[:held])
