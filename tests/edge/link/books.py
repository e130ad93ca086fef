"""A session with a verifier in this process, and the text that it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.errors import CloudError, Unreachable
from uhlm_edge.common.prompts import Message
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.events import Draft, Outcome
from uhlm_edge.edge.link.breaker import Breaker
from uhlm_edge.edge.link.protocol import Deadline
from uhlm_edge.edge.link.session import Prompt, Session
from uhlm_edge.edge.stats import Stats, Traffic
from uhlm_edge.edge.transcript import Transcript
from uhlm_edge.lm.draws import Purpose, uniform
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import LLM, Target
from uhlm_edge.wire.messages import Conflict, Info, Limits, Reply, Request

from ...fakes import CLOUD, DEVICE, FakeContext, FakeEngine

PROMPT = list(b"hello, world")
SAMPLER = Sampler()
Fault = Callable[[Request], None]


class RecordingLink:
    """To a verifier in this process. Faults are called before it, and may raise."""

    def __init__(self, limits: Limits | None = None, n_ctx: int = 1000) -> None:
        self.limits = limits or Limits()
        self.traffic = Traffic()
        self.requests: list[Request] = []
        self.sessions: set[str] = set()
        self.faults: list[Fault] = []
        self.lose = 0  # so many answers are lost on their way back
        self.asked = 0
        self.resets = 0
        self.forgotten: list[str] = []
        self.n_ctx = n_ctx
        self.info_change: dict[str, object] = {}
        self.restart()

    def restart(self) -> None:
        self.verifier = Verifier(FakeContext(n_ctx=5000), self.n_ctx, 8)

    def info(self, deadline: Deadline) -> Info:
        deadline.check()
        self.asked += 1
        vocab = CLOUD.vocab
        info = Info(
            model="fake-llm",
            fingerprint=vocab.fingerprint,
            end_ids=vocab.end_ids,
            n_ctx=self.n_ctx,
            limits=self.limits,
        )
        return info.model_copy(update=self.info_change)

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        deadline.check()
        self.requests.append(request)
        self.sessions.add(session_id)
        if self.faults:
            self.faults.pop(0)(request)
        sent = Request.unpack(request.pack(), self.limits, n_vocab)
        answer = self.verifier.verify(("", session_id), sent)
        if isinstance(answer, Conflict):
            return answer
        if self.lose:
            self.lose -= 1
            raise Unreachable("the answer was lost")
        return Reply.unpack(answer.pack(), request, n_vocab, session_id)

    def forget(self, session_id: str, deadline: Deadline) -> None:
        self.forgotten.append(session_id)

    def reset(self) -> None:
        self.resets += 1


class Books:
    """A session, and the text that it is about, as the loop would commit it."""

    def __init__(self, link: RecordingLink, seconds: float = 20.0) -> None:
        self.link = link
        self.now = 0.0
        self.cache = TokenCache(FakeEngine(DEVICE, 5000))
        self.session = Session(
            link, DEVICE.vocab, "fake-slm", seconds, Breaker(lambda: self.now), lambda: self.now
        )
        self.begin()

    def begin(
        self,
        prompt: Sequence[int] = PROMPT,
        seed: int = 5,
        target: Target = LLM,
        messages: Sequence[Message] | None = None,
    ) -> None:
        self.text = Transcript(self.cache, prompt, 4000, lambda: self.now)
        asked = Prompt(prompt, messages, seed, 4000)
        self.seed = seed
        self.session.begin(self.text, asked, SAMPLER, target, Stats("test"))

    @property
    def ids(self) -> list[int]:
        return list(self.cache.ids)

    def drafts(self, n: int) -> list[Draft]:
        """The next drafts, pushed onto the text."""
        for _ in range(n):
            q = SAMPLER.distribution(Row(DEVICE.row(self.ids)))
            index = len(self.text.tokens) + len(self.text.drafts)
            draft = Draft(index, q.draw(uniform(self.seed, Purpose.DRAFT, index)), q)
            self.text.push(draft)
        return list(self.text.drafts)

    def skip(self, n: int = 1) -> None:
        for _ in self.drafts(n):
            self.text.commit_draft(uploaded=False)

    def ask(self, n: int = 1, bonus: int = 0) -> Reply:
        call = self.session.submit(self.drafts(n), bonus)
        reply = self.session.conclude(call)
        for _ in range(reply.accepted):
            self.text.commit_draft(uploaded=True, accepted=True)
        self.text.rollback()
        for token in reply.tokens:
            self.text.commit(token, None, Outcome(reply.accepted, reply.tokens))
        self.text.answered = len(self.text.tokens)
        return reply

    def fail(self, n: int = 1) -> CloudError:
        call = self.session.submit(self.drafts(n))
        with pytest.raises(CloudError) as caught:
            self.session.conclude(call)
        self.text.rollback()
        self.now += 1000.0  # until the breaker lets calls through again
        return caught.value
