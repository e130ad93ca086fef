"""A device and a verifier made of fakes, and what a reply must be, computed without any of them.

`Pair` joins the loop to a real `Verifier` through the bytes of the wire. `Reference` gives the ids
of a reply from the distributions alone: each is a function of the seed and of the text before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from uhlm_edge.cloud.service import Service
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.errors import ProtocolError, Rejected, Unreachable
from uhlm_edge.common.keys import Keys
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.decode.loop import ReplyLoop
from uhlm_edge.edge.events import Event, Notice, SkippedVerdict, Token
from uhlm_edge.edge.link.breaker import Breaker
from uhlm_edge.edge.link.call import Call
from uhlm_edge.edge.link.in_process import LocalLink
from uhlm_edge.edge.link.protocol import Deadline
from uhlm_edge.edge.link.session import Prompt, Session
from uhlm_edge.edge.policy.strategy import Strategy
from uhlm_edge.lm.draws import Draws, Purpose, uniform
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Distribution, Sampler, rejection
from uhlm_edge.lm.uncertainty import sampled
from uhlm_edge.lm.verification import bonus_token, judge
from uhlm_edge.wire.messages import Conflict, Limits, Malformed, OutOfRange, Reply, Request

from ..fakes import CLOUD, DEVICE, FakeContext, FakeEngine, FakeModel

PLAIN = Sampler(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = Sampler(temperature=0.0)

Fault = Literal["lost", "answer lost", "late", "wrong"]
FAULTS: tuple[Fault, ...] = ("lost", "answer lost", "late", "wrong")


def no_fault(call: int) -> Fault | None:
    """Every call is answered."""
    return None


class Clock:
    """Seconds that pass only when told; `tick` of them at every look."""

    def __init__(self) -> None:
        self.now = self.tick = 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class FaultyLink(LocalLink):
    """A link that fails at chosen calls, counted from 0 and without questions for `info`.

    With `held`, calls stay under way until the loop waits for them.
    """

    def __init__(self, service: Service, fault: Callable[[int], Fault | None] = no_fault) -> None:
        super().__init__(service)
        self.fault = fault
        self.asked = 0
        self.requests: list[Request] = []
        self.held = False
        self.release = threading.Event()
        self.is_late = False
        self.stirred = threading.Event()

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        fault = self.fault(self.asked)
        self.asked += 1
        self.requests.append(request)
        if self.held:
            self.release.wait()
            self.release.clear()
        if fault == "lost":
            raise Unreachable("the call was lost")
        try:
            answer = super().verify(session_id, request, n_vocab, deadline)
        except OutOfRange as error:  # HTTP 422
            raise Rejected(str(error)) from None
        if fault == "answer lost":
            raise Unreachable("the answer was lost")
        if fault == "late":
            self.is_late = True
            self.stirred.set()
            self.release.wait()
        if fault == "wrong":
            assert isinstance(answer, Reply)
            try:
                Reply.unpack(replace(answer, id=answer.id + 1).pack(), request, n_vocab, session_id)
            except Malformed as error:
                raise ProtocolError(str(error)) from None
        return answer


class StagedSession(Session):
    """Waits for what the link does, not for time: a late call is one whose deadline is over."""

    def conclude(self, call: Call) -> Reply:
        link = self.link
        assert isinstance(link, FaultyLink)
        if link.held:  # a patient link answers when the loop has nothing else to do
            link.release.set()
        call.future.add_done_callback(lambda _: link.stirred.set())
        link.stirred.wait()
        link.stirred.clear()
        if link.is_late:
            link.is_late = False
            call.deadline = Deadline(0.0)
        return super().conclude(call)


@dataclass
class Pair:
    """A device and a verifier; `reply` runs one reply to its end."""

    device: Device
    engine: FakeEngine
    context: FakeContext
    service: Service
    link: FaultyLink
    session: Session
    clock: Clock
    loops: list[ReplyLoop] = field(default_factory=list)

    def loop(
        self,
        strategy: Strategy,
        prompt: list[int],
        seed: int = 0,
        max_tokens: int = 20,
        pipelined: bool | None = False,
        offline: bool = False,
    ) -> ReplyLoop:
        """A new reply."""
        loop = ReplyLoop(
            self.device,
            Session(None, self.device.vocab) if offline else self.session,
            strategy,
            Prompt(prompt, None, seed, max_tokens),
            pipelined,
        )
        self.loops.append(loop)
        return loop

    def events(self, strategy: Strategy, prompt: list[int], **options: object) -> list[Event]:
        """All events of a new reply."""
        return list(self.loop(strategy, prompt, **options).events())  # type: ignore[arg-type]

    def ids(self, strategy: Strategy, prompt: list[int], **options: object) -> list[int]:
        """The ids of a new reply."""
        return ids_of(self.events(strategy, prompt, **options))


def ids_of(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def betas(events: list[Event]) -> dict[int, float]:
    return {event.index: event.beta for event in events if isinstance(event, SkippedVerdict)}


@contextmanager
def pair(
    device: FakeModel = DEVICE,
    cloud: FakeModel = CLOUD,
    sampler: Sampler = PLAIN,
    fault: Callable[[int], Fault | None] = no_fault,
    n_ctx: int = 256,
    cloud_n_ctx: int = 256,
    wire_top: int = 64,
    patient: bool = False,
    limits: Limits | None = None,
    cells: int = 1024,
    measure: bool = False,
) -> Iterator[Pair]:
    """A pair for as long as the context lasts. The breaker's clock stands still."""
    context = FakeContext(cloud, cells)
    service = Service(
        verifier=Verifier(context, cloud_n_ctx, 8),
        vocab=context.vocab,
        model_name=cloud.name,
        backend="fake",
        limits=limits or Limits(),
        keys=Keys(),
    )
    engine = FakeEngine(device, n_ctx)
    link, clock = FaultyLink(service, fault), Clock()
    link.held = patient
    session = StagedSession(link, engine.vocab, device.name, breaker=Breaker(clock))
    at_hand = Device(TokenCache(engine), sampler, wire_top, measure=measure)
    try:
        yield Pair(at_hand, engine, context, service, link, session, clock)
    finally:
        link.held = False
        link.release.set()
        session.close()


@dataclass(frozen=True)
class Reference:
    """What each strategy writes, from the distributions alone."""

    prompt: list[int]
    seed: int
    device: FakeModel = DEVICE
    cloud: FakeModel = CLOUD
    sampler: Sampler = PLAIN
    wire_top: int = 64
    n: int = 20

    def _until_the_end(self, step: Callable[[list[int]], int]) -> list[int]:
        end = len(self.device.vocab) - 1
        reply: list[int] = []
        while len(reply) < self.n and end not in reply:
            reply.append(step(reply))
        return reply

    def q(self, before: list[int]) -> Distribution:
        """The device's distribution after the prompt and `before`."""
        row = self.device.row(self.prompt + before)
        return self.sampler.distribution(Row(row), self.wire_top)

    def draft(self, before: list[int]) -> int:
        """What the device writes next."""
        return self.q(before).draw(uniform(self.seed, Purpose.DRAFT, len(before)))

    def judged(self, before: list[int]) -> int:
        """What stands next when the LLM judges the draft."""
        p = self.sampler.probs(Row(self.cloud.row(self.prompt + before)))
        draft = self.draft(before)
        verdict = judge([draft], [self.q(before)], [p], self.seed, len(before))
        return draft if verdict.replacement is None else verdict.replacement

    def supplied(self, before: list[int]) -> int:
        """What the LLM writes next."""
        p = self.sampler.probs(Row(self.cloud.row(self.prompt + before)))
        return bonus_token(p, self.seed, len(before))

    def u(self, before: list[int]) -> float:
        """The uncertainty of the next draft."""
        draws, at = Draws(self.seed, 20), len(before)
        row = self.device.row(self.prompt + before)
        return sampled(Row(row), self.draft(before), draws.thetas(at), draws.perturbs(at))

    def beta(self, before: list[int]) -> float:
        """How likely the LLM rejects the next draft."""
        p = self.sampler.probs(Row(self.cloud.row(self.prompt + before)))
        draft = self.draft(before)
        return rejection(float(p[draft]), self.q(before).weight(draft) / TOTAL)

    @property
    def local(self) -> list[int]:
        """The device alone."""
        return self._until_the_end(self.draft)

    @property
    def hlm(self) -> list[int]:
        """The LLM judges every draft."""
        return self._until_the_end(self.judged)

    @property
    def cloud_ids(self) -> list[int]:
        """The LLM alone."""
        return self._until_the_end(self.supplied)

    def uhlm(self, threshold: float) -> list[int]:
        """The LLM judges the drafts whose u exceeds the threshold."""
        return self._until_the_end(
            lambda before: self.judged(before) if self.u(before) > threshold else self.draft(before)
        )

    def local_at(self, positions: set[int]) -> list[int]:
        """The LLM judges every draft but those at `positions`."""
        return self._until_the_end(
            lambda before: self.draft(before) if len(before) in positions else self.judged(before)
        )
