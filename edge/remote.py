"""The conversation as the verifier holds it: what must be sent, and what came back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace

from ..cloud.wire import Conflict, Info, Reply, Request, Settings, prefix_hash
from ..lm.draws import SCHEME
from ..lm.errors import CloudError, DeadlineExceeded, Overloaded, ProtocolError, Refused
from ..lm.sampling import Sampler
from ..lm.targets import Target
from ..lm.vocab import Vocabulary, require_same
from ..lm.worker import Worker
from .breaker import Breaker
from .events import Draft
from .link import Deadline, Link
from .pace import Pace

__all__ = ["Call", "Remote"]


@dataclass(frozen=True)
class Call:
    """A call under way."""

    future: Future[Reply]
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
        self.pace = Pace()
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

    @property
    def ready(self) -> bool:
        """May an upload go out now?"""
        return self._breaker.ready

    @property
    def n_skipped(self) -> int:
        """Tokens settled without the verifier since its last answer."""
        return len(self._skipped)

    def connect(self) -> Info:
        """Ask who the verifier is, if not known yet.

        Raises:
            CloudError: no answer.
            VocabularyMismatch: it runs a model with another vocabulary.
        """
        if self.info is None:
            info = self.link.info(Deadline(self._seconds))
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
        # What the old text and the new prompt have in common is held already.
        new = [] if self.info is None else self._render_prompt(self.info)
        differ = (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
        self._held = min(self._held, next(differ, min(len(old), len(new))))

    def _render_prompt(self, info: Info) -> list[int]:
        if self._ids is None:
            prompt = self._render(info)
            self._settings = self._settings.model_copy(update={"origin": len(prompt)})
            self._ids = prompt + self._tail
        return self._ids

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
        deadline = Deadline(self._seconds)
        drafts, skipped = tuple(drafts), tuple(self._skipped)  # the caller's list goes on growing
        future = self._worker.submit(
            lambda _: self._exchange(drafts, skipped, supply, weigh, deadline)
        )
        return Call(future, deadline, self._clock(), drafts, skipped, weigh)

    def _exchange(
        self,
        drafts: Sequence[Draft],
        skipped: Sequence[Draft],
        supply: int,
        weigh: bool,
        deadline: Deadline,
    ) -> Reply:
        """Runs in the worker: one call, and one re-send if the verifier lacks what we thought."""
        info = self.connect()
        ids = self._render_prompt(info) + [draft.id for draft in drafts]
        weighed = [*skipped, *drafts] if weigh else list(skipped)
        request = Request(
            id=self._calls,
            start=0,
            prefix=b"",
            tokens=ids,
            weights=[draft.weight for draft in weighed],
            drafts=[] if weigh else [draft.q for draft in drafts],
            supply=supply,
        )
        answer = self._send(request, self._held, deadline)
        if isinstance(answer, Conflict):
            known = answer.held <= len(ids) and answer.held_prefix == prefix_hash(
                ids[: answer.held]
            )
            self._settings_sent = False
            answer = self._send(request, answer.held if known else 0, deadline)
        if isinstance(answer, Conflict):
            raise ProtocolError("the verifier forgets what it was just sent")
        self._settings_sent = True
        return answer

    def _send(self, whole: Request, start: int, deadline: Deadline) -> Reply | Conflict:
        """`whole.tokens` are all ids; send those from `start` on, in several calls if too many."""
        assert self.info is not None  # noqa: S101 - connect() went before
        ids, limit = whole.tokens, self.info.limits.tokens_per_call
        # Ids to be judged must not be held yet, or their rows would be gone.
        start = min(start, len(ids) - len(whole.drafts) - len(whole.weights))
        start = max(0, start)
        n_vocab = len(self._vocab)
        settings = self._settings
        while len(ids) - start > limit:
            part = replace(
                whole, start=start, prefix=prefix_hash(ids[:start]),
                tokens=ids[start : start + limit], weights=(), drafts=(), supply=0,
                settings=settings, id=(whole.id + start + 2**31) % 2**32,
            )  # fmt: skip
            answer = self.link.verify(self._session_id, part, n_vocab, deadline)
            if isinstance(answer, Conflict):
                return answer
            start += limit
        room = len(ids) - start - len(whole.drafts)
        part = replace(
            whole,
            start=start,
            prefix=prefix_hash(ids[:start]),
            tokens=ids[start:],
            weights=whole.weights[max(0, len(whole.weights) - room) :],
            settings=None if self._settings_sent and start > 0 else settings,
        )
        return self.link.verify(self._session_id, part, n_vocab, deadline)

    def conclude(self, call: Call) -> Reply:
        """Wait for a call's answer and take it into the books.

        Raises:
            CloudError: it failed; the books are as if it had never been made.
            VocabularyMismatch: the verifier turned out to run another family.
        """
        try:
            reply = call.future.result(timeout=call.deadline.left)
        except NotYet:
            self.abandon()
            self._fail(call, None)
            raise DeadlineExceeded(f"the verifier took longer than {self._seconds:g} s") from None
        except Refused:
            self._breaker.give_up()
            raise
        except CloudError as error:
            self._fail(call, error)
            raise
        self._breaker.succeed()
        ids = self._render_prompt(self.connect())
        positions = max(1, reply.held - self._held)
        self.pace.called(self._clock() - call.begun, reply.us.model / 1e6, positions)
        self.pace.judged(list(reply.betas[len(reply.betas) - call.n_judged(reply) :]))
        ids += [draft.id for draft in call.drafts[: reply.accepted]]
        ids += reply.tokens
        self._held = min(reply.held, len(ids))
        self._skipped.clear()
        return reply

    def _fail(self, call: Call, error: CloudError | None) -> None:
        retry_after = error.retry_after if isinstance(error, Overloaded) else None
        self._breaker.fail(self._clock() - call.begun, retry_after)

    def abandon(self) -> None:
        """Stop waiting for a call; its thread and connection are left to end by themselves."""
        self.link.reset()
        self._worker = Worker("uhlm-link")
        self._breaker.abandon()
        self._settings_sent = False
