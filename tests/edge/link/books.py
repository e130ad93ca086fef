"""A Remote with a verifier in this process, and the ids that it should hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.errors import CloudError, Unreachable
from uhlm_edge.edge.events import Draft
from uhlm_edge.edge.link.breaker import Breaker
from uhlm_edge.edge.link.http import Deadline, Traffic
from uhlm_edge.edge.link.session import Remote
from uhlm_edge.lm.draws import Purpose, uniform
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import LLM, Target
from uhlm_edge.wire.messages import Conflict, Info, Limits, Reply, Request

from ...fakes import CLOUD, DEVICE, FakeContext

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

    def reset(self) -> None:
        self.resets += 1


class Books:
    """A Remote, and the ids that it should hold."""

    def __init__(self, link: RecordingLink, seconds: float = 20.0) -> None:
        self.link = link
        self.now = 0.0
        self.remote = Remote(
            link, DEVICE.vocab, "fake-slm", seconds, Breaker(lambda: self.now), lambda: self.now
        )
        self.begin()

    def begin(self, prompt: Sequence[int] = PROMPT, seed: int = 5, target: Target = LLM) -> None:
        self.ids = list(prompt)
        self.origin = len(prompt)
        self.seed = seed
        self.remote.begin(lambda _: list(prompt), SAMPLER, target, seed)

    def drafts(self, n: int) -> list[Draft]:
        ids, drafts = list(self.ids), []
        for _ in range(n):
            q = SAMPLER.distribution(Row(DEVICE.row(ids)))
            index = len(ids) - self.origin
            drafts.append(Draft(index, q.draw(uniform(self.seed, Purpose.DRAFT, index)), q))
            ids.append(drafts[-1].id)
        return drafts

    def skip(self, n: int = 1) -> None:
        for draft in self.drafts(n):
            self.remote.skip(draft)
            self.ids.append(draft.id)

    def ask(self, n: int = 1, supply: int = 0) -> Reply:
        drafts = self.drafts(n)
        reply = self.remote.conclude(self.remote.submit(drafts, supply))
        self.ids += [draft.id for draft in drafts[: reply.accepted]] + list(reply.tokens)
        return reply

    def fail(self, n: int = 1) -> CloudError:
        call = self.remote.submit(self.drafts(n))
        with pytest.raises(CloudError) as caught:
            self.remote.conclude(call)
        self.now += 1000.0  # until the breaker lets calls through again
        return caught.value
