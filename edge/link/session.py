"""A session with a verifier: what it holds of the text, and calls one at a time."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace

from ...common.errors import (
    CloudError,
    ModelError,
    Overloaded,
    Refused,
    Rejected,
    ResourceError,
    VocabularyMismatch,
)
from ...common.prompts import Message
from ...common.worker import Worker
from ...lm.chat import ChatEncoder
from ...lm.draws import SCHEME
from ...lm.ids import common_length
from ...lm.sampling import Sampler
from ...lm.targets import Coupling, Target
from ...lm.vocabulary import Vocabulary, require_same
from ...wire.messages import Info, Reply, Settings
from ..events import Draft
from ..stats import Stats
from ..transcript import Transcript
from .breaker import Breaker
from .budget import BudgetReached
from .call import Call, DraftsTooLarge, exchange
from .latency import LatencyModel
from .protocol import Deadline, Link, NoLink

_log = logging.getLogger("uhlm_edge.link")
_log.addHandler(logging.NullHandler())
_GOODBYE = 0.5  # seconds that ending a session may take


@dataclass(frozen=True)
class Prompt:
    """What to reply to.

    Attributes:
        ids: as the device's template renders it.
        messages: the conversation, which the verifier's template may render in another way; None:
            plain text, which both models read as the same ids.
        seed: of this reply.
        max_tokens: tokens of the reply at most.
        slides: it leaves out the oldest turns, and the verifier may keep what it read of the rest.
    """

    ids: Sequence[int]
    messages: Sequence[Message] | None
    seed: int
    max_tokens: int
    slides: bool = False


class Session:
    """A conversation as the verifier knows it. Without a verifier it is never ready.

    Nothing is sent before the first upload. Ids that the verifier lacks ride along with the next
    call; if it forgot the session, one re-send brings everything back. The text itself is the
    transcript's: here are only the prompt as the verifier's template has it, and what was agreed.

    Args:
        link: how calls get there; None: there is no verifier.
        vocab: the device's, compared with the verifier's.
        name: of the device model, for messages.
        deadline: seconds that a whole call may take, tries and re-send included. It is enforced
            here, where the device waits, and nowhere else: see `Deadline`.
        breaker: keeps calls back while the verifier is away.
    """

    def __init__(
        self,
        link: Link | None,
        vocab: Vocabulary,
        name: str = "",
        deadline: float = 10.0,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.link: Link = link or NoLink()
        self.info: Info | None = None
        self.latency = LatencyModel()
        self._vocab = vocab
        self._name = name
        self._seconds = deadline
        self._breaker = breaker or Breaker()
        if link is None:
            self._breaker.give_up()
        self._clock = clock
        self._id = secrets.token_hex(16)
        self._worker: Worker | None = None  # a thread, from the first call on
        self._calls = 0
        self._call_deadline = Deadline(0.0)  # of the newest call
        self._transcript: Transcript | None = None
        self._prompt: list[int] | None = None  # as the verifier's template has it
        self._messages: Sequence[Message] | None = None
        self._plain: Sequence[int] = ()
        self._chat: ChatEncoder | None = None  # by the verifier's template
        self._settings, self._settings_sent = Settings(), False
        self._stats, self._traffic = Stats(""), replace(self.link.traffic)

    @property
    def ready(self) -> bool:
        """May an upload go out now?"""
        return self._breaker.ready

    @property
    def is_offline(self) -> bool:
        """Is there no verifier at all?"""
        return isinstance(self.link, NoLink)

    def connect(self) -> Info:
        """Ask who the verifier is, if not known yet.

        Raises:
            CloudError: no answer.
            VocabularyMismatch: it runs a model with another vocabulary.
        """
        deadline = self._call_deadline = Deadline(self._seconds)
        future = self._thread.submit(lambda _: self._introduce(deadline))
        try:
            return future.result(timeout=deadline.left)
        except NotYet:
            self.abandon()
            raise deadline.exceeded from None

    def begin(
        self,
        transcript: Transcript,
        prompt: Prompt,
        sampler: Sampler,
        target: Target,
        stats: Stats,
        coupling: Coupling = "none",
    ) -> None:
        """A new reply: another prompt and seed. Nothing is sent yet."""
        old, held = self._text, self._held
        self._transcript, self._stats = transcript, stats
        self._traffic = replace(self.link.traffic)
        self._messages, self._plain = prompt.messages, prompt.ids
        self._prompt = None
        if self.info is not None:
            transcript.end_ids |= self.info.end_ids
            with contextlib.suppress(ModelError, ResourceError):  # the first call will say so
                self._prompt = self._render(self.info)
        # What the old text and the new prompt have in common is held already.
        new = self._prompt or []
        transcript.held = min(held, common_length(old, new)) - len(new)
        self._settings = Settings(
            sampler=sampler, target=target, seed=prompt.seed, origin=len(new), coupling=coupling,
            slide=prompt.slides,
        )  # fmt: skip
        self._settings_sent = False

    def submit(self, drafts: Sequence[Draft], bonus: int = 0, audit: bool = False) -> Call:
        """Ask about drafts, for tokens, or about nothing but what was skipped (an audit)."""
        transcript = self._transcript
        assert transcript is not None  # noqa: S101 - a reply was begun
        self._breaker.begin()
        self._calls = (self._calls + 1) % 2**32
        self._stats.audits += audit
        self._stats.uploads += not audit
        self._call_deadline = Deadline(self._seconds)
        call = Call(
            self._calls, self._id, None if self._prompt is None else tuple(self._prompt),
            tuple(transcript.reply_ids), tuple(drafts), tuple(transcript.skipped), bonus,
            self._held, self._settings, self._settings_sent, self._call_deadline, self._clock(),
        )  # fmt: skip
        call.future = self._thread.submit(lambda _: self._exchange(call))
        return call

    def conclude(self, call: Call) -> Reply:
        """Wait for a call's answer and note what the verifier holds now.

        Raises:
            CloudError: it failed; everything is as if it had never been made.
            VocabularyMismatch: the verifier turned out to run another family.
            DraftsTooLarge: nothing was asked; make them anew, within the limits of `info`.
        """
        begun, transcript = self._clock(), self._transcript
        if transcript is not None:
            self._stats.pipelined |= len(transcript.drafts) > len(call.drafts)
        try:
            reply = call.future.result(timeout=call.deadline.left)
        except NotYet:
            self.abandon()
            self._fail(call, None)
            raise call.deadline.exceeded from None
        except (Refused, VocabularyMismatch):
            self._breaker.give_up()
            raise
        except CloudError as error:
            self._stats.uploads -= isinstance(error, BudgetReached)  # nothing was sent
            self._fail(call, error)
            raise
        except DraftsTooLarge:
            self._breaker.succeed()
            self._stats.uploads -= 1
            raise
        except BaseException:  # such as an interrupt while it waits
            self.abandon()
            raise
        finally:
            self._stats.wait_time += self._clock() - begun
        self._breaker.succeed()
        self._learn(call, reply)
        return reply

    def _learn(self, call: Call, reply: Reply) -> None:
        """Take over what an answer says: ids held, times, acceptance."""
        transcript, info = self._transcript, self.info
        assert transcript is not None and info is not None  # noqa: S101, PT018 - it answered
        model = reply.us.model / 1e6
        self._stats.cloud_time += model
        self.latency.called(self._clock() - call.begun, model, call.positions(reply))
        self.latency.judged(list(call.judged_betas(reply)))
        self._id, self._prompt = call.session_id, list(call.prompt or ())
        self._settings, self._settings_sent = call.settings, True
        transcript.end_ids |= info.end_ids
        stand = len(call.drafts) if call.is_contrast else reply.accepted
        transcript.held = min(reply.held - len(self._prompt), len(call.reply_ids) + stand)

    def count_traffic(self) -> None:
        """Add to the statistics what the reply has cost on the link since it was last asked."""
        self._stats.add_traffic(self._traffic, self.link.traffic)
        self._traffic = replace(self.link.traffic)

    def abandon(self) -> None:
        """Stop waiting for a call; its thread is left behind, and ends when its sockets close."""
        self._call_deadline.cancel()
        self.link.reset()
        if self._worker is not None:
            self._worker.retire()
            self._worker = None
        self._breaker.abandon()
        self._settings_sent = False

    def close(self) -> None:
        """Say goodbye, as far as that is quick, and let the thread end. Twice is fine."""
        if self._worker is not None:
            if self._settings_sent and self.ready:
                goodbye = Deadline(_GOODBYE)
                ended = self._worker.submit(lambda _: self.link.forget(self._id, goodbye))
                with contextlib.suppress(CloudError, NotYet):  # it forgets by itself in time
                    ended.result(timeout=_GOODBYE)
            self._worker.retire()
            self._worker = None

    @property
    def _thread(self) -> Worker:
        if self._worker is None:
            self._worker = Worker("uhlm-link")
        return self._worker

    @property
    def _text(self) -> list[int]:
        """Ids as the verifier should have them; a view of the transcript."""
        reply = self._transcript.reply_ids if self._transcript is not None else []
        return [] if self._prompt is None else self._prompt + reply

    @property
    def _held(self) -> int:
        """How many of them it has."""
        if self._prompt is None or self._transcript is None:
            return 0
        return max(0, len(self._prompt) + self._transcript.held)

    def _introduce(self, deadline: Deadline) -> Info:
        """Runs in the thread: who is the verifier, and does it fit?"""
        if self.info is None:
            info = self.link.info(deadline)
            require_same(self._vocab.fingerprint, info.fingerprint, self._name, info.model)
            if info.random != SCHEME:
                raise Refused(f"the verifier draws by {info.random}, not {SCHEME}; update one")
            self.info = info
        return self.info

    def _exchange(self, call: Call) -> Reply:
        """Runs in the thread; changes nothing but the call."""
        info = self._introduce(call.deadline)
        if call.prompt is None:
            try:
                call.prompt = tuple(self._render(info))
            except (ModelError, ResourceError) as error:
                # Not for good: another conversation may suit its template, and a process be free.
                raise CloudError(f"{info.model} (cloud): {error}") from None
            call.settings = call.settings.model_copy(update={"origin": len(call.prompt)})
        try:
            return exchange(call, self.link, info, len(self._vocab))
        except Rejected as error:
            # No user can cause this: tell whoever reads logs, and try with nothing to build on.
            _log.warning(
                "the verifier rejected call %d, sending everything anew: %s", call.id, error
            )
            call.session_id = secrets.token_hex(16)
            call.held, call.settings_sent = 0, False
            self.info = None  # it may have come back with other limits
            return exchange(call, self.link, self._introduce(call.deadline), len(self._vocab))

    def _render(self, info: Info) -> list[int]:
        """The prompt as the verifier's template has it. Raises ModelError, ResourceError."""
        if self._messages is None:
            return list(self._plain)
        if self._chat is None:
            self._chat = ChatEncoder(self._vocab, info)
        return self._chat.encode(self._messages)

    def _fail(self, call: Call, error: CloudError | None) -> None:
        retry_after = error.retry_after if isinstance(error, Overloaded) else None
        cost = None if error is None else error.cost
        self._breaker.fail(self._clock() - call.begun if cost is None else cost, retry_after)
