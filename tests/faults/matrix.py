"""Every kind of fault x every strategy x pipelined or not: what became of the text.

`python -m uhlm_edge.tests.faults.matrix docs/reliability.md` runs it and writes the table there.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import uvicorn

from uhlm_edge.cloud.app import App
from uhlm_edge.cloud.service import Service
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.keys import Keys
from uhlm_edge.configs.config import StrategyName
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.decode.loop import GOING_ON, ReplyLoop
from uhlm_edge.edge.events import Notice
from uhlm_edge.edge.link.breaker import Breaker
from uhlm_edge.edge.link.call import Call
from uhlm_edge.edge.link.http import HttpLink
from uhlm_edge.edge.link.protocol import Deadline, Link
from uhlm_edge.edge.link.session import Prompt, Session
from uhlm_edge.edge.policy.strategy import Strategy, make_strategy
from uhlm_edge.lm.targets import Weighted
from uhlm_edge.wire.messages import Conflict, Info, Limits, Reply, Request

from ..edge.pairs import PLAIN, Clock, Reference
from ..fakes import FakeContext, FakeEngine, FakeVocabulary, Remembering
from .proxy import KINDS, FaultyProxy

__all__ = [
    "ALL_KINDS",
    "STRATEGIES",
    "Seen",
    "case",
    "check",
    "service_of_fakes",
    "strategy",
    "upstream",
    "write",
]

KEY = "sk-canary-of-the-faults"
VOCAB = FakeVocabulary(12)
SLM = Remembering("slm", 1, VOCAB, own=1.0)
LLM = Remembering("llm", 2, VOCAB, own=1.0)
PROMPT = [1, 2, 3]
N = 40  # tokens of a reply: three calls of `cloud`
AFTER = 12  # tokens of the reply after it
FIRST = 2  # the first call that fails, counted from 0
STRATEGIES = tuple(name for name in get_args(StrategyName) if name != "handoff")
"""`handoff` asks no verifier."""
ELSEWHERE = {
    "no such name": "http://verifier.invalid:9",
    "nobody listens": "http://127.0.0.1:9",
    "TLS expected": "https",  # the proxy's own port
}
ALL_KINDS = (*KINDS, *ELSEWHERE, "clock jumps")
FOR_GOOD = {"401", "403"}


class _Switch:
    """A link that leads elsewhere while a fault lasts."""

    def __init__(self, good: HttpLink, bad: HttpLink, fault: Callable[[int], bool]) -> None:
        self.traffic = good.traffic
        self.calls = 0
        self._good, self._bad, self._fault = good, bad, fault

    def info(self, deadline: Deadline) -> Info:
        return self._good.info(deadline)

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        link = self._bad if self._fault(self.calls) else self._good
        self.calls += 1
        return link.verify(session_id, request, n_vocab, deadline)

    def forget(self, session_id: str, deadline: Deadline) -> None:
        self._good.forget(session_id, deadline)

    def reset(self) -> None:
        self._good.reset()
        self._bad.reset()


class _Waiting(Session):
    """Gives a call up when it is stuck, not after a time: a short one is short on a busy machine.

    Attributes:
        stuck: the answer under way will not come.
        stirred: something has happened to it.
    """

    stuck = False

    def __init__(self, link: Link, deadline: float, breaker: Breaker) -> None:
        super().__init__(link, VOCAB, "slm", deadline, breaker)
        self.stirred = threading.Event()

    def conclude(self, call: Call) -> Reply:
        call.future.add_done_callback(lambda _: self.stirred.set())
        while not call.done and not self.stuck:
            self.stirred.wait()
            self.stirred.clear()
        if self.stuck:
            self.stuck = False
            call.deadline = Deadline(0.0)
        return super().conclude(call)


@dataclass
class Seen:
    """What became of a reply under a fault, and of the next one after it.

    Attributes:
        kind, strategy, pipelined: the case.
        hit: the fault happened at all (`local` asks nobody).
        unverified: tokens that got no verdict.
        wrong: what should not be; empty if all is well.
    """

    kind: str
    strategy: str
    pipelined: bool
    hit: bool = False
    unverified: int = 0
    wrong: list[str] = field(default_factory=list)


def service_of_fakes() -> Service:
    """A verifier whose every row is known."""
    return Service(
        verifier=Verifier(FakeContext(LLM, 4096, 64), 256, 64),
        vocab=VOCAB,
        model_name="llm",
        backend="none",
        limits=Limits(),
        keys=Keys([KEY]),
    )


@contextmanager
def upstream() -> Iterator[int]:
    """It behind real HTTP; yields its port."""
    service = service_of_fakes()
    service.verifier.driver.start()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(App(service), log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
        service.verifier.driver.close()
        listener.close()


def strategy(name: StrategyName) -> Strategy:
    return make_strategy(name, threshold=0.3, rate=0.7, draft_limit=2, target=Weighted(weight=0.5))


def _at_once(_: float) -> None:
    """Between two tries nobody waits: what is tried again is the point, not when."""


def case(port: int, kind: str, name: StrategyName, pipelined: bool) -> Seen:
    """One reply whose calls fail from the third on, and one when the fault is over."""
    seen = Seen(kind, name, pipelined)
    clock, failing = Clock(), threading.Event()
    failing.set()
    jump = [0.0]
    real_time = time.time

    def fault(call: int) -> str | None:
        if call < FIRST or not failing.is_set():
            return None
        seen.hit = True
        jump[0] += 3e7
        if kind in ("drip", "silence"):
            session.stuck = True
            session.stirred.set()
        return kind if kind in KINDS else None

    def elsewhere(call: int) -> bool:
        fault(call)
        return call >= FIRST and failing.is_set()

    with FaultyProxy(port, fault) as proxy:
        good = HttpLink(proxy.url, KEY, sleep=_at_once)
        link: HttpLink | _Switch = good
        if kind in ELSEWHERE:
            where = ELSEWHERE[kind]
            where = proxy.url.replace("http", where) if where == "https" else where
            bad = HttpLink(where, connect_timeout=0.02, sleep=_at_once)
            link = _Switch(good, bad, elsewhere)
        engine = FakeEngine(SLM, 256)
        session = _Waiting(link, 30.0, Breaker(clock))
        device = Device(TokenCache(engine), PLAIN)
        if kind == "clock jumps":
            time.time = lambda: real_time() + jump[0]
        try:
            check(seen, write(device, session, strategy(name), PROMPT, pipelined), PROMPT)
            failing.clear()
            session.stuck = False
            clock.now += 1000.0
            again = [*PROMPT, 4]
            loop, _ = write(device, session, strategy(name), again, pipelined, AFTER)
            if kind not in FOR_GOOD and loop.stats.unverified:
                seen.wrong.append("not hybrid again")
            if name not in ("local",) and kind not in FOR_GOOD and not loop.stats.uploads:
                seen.wrong.append("asks nobody after the fault")
        finally:
            time.time = real_time
            session.close()
    return seen


def write(
    device: Device,
    session: Session,
    strategy: Strategy,
    prompt: list[int],
    pipelined: bool,
    n: int = N,
) -> tuple[ReplyLoop, list[object]]:
    """One reply: its loop, and all that it told."""
    loop = ReplyLoop(device, session, strategy, Prompt(prompt, None, 7, n), pipelined)
    return loop, list(loop.events())


def check(seen: Seen, reply: tuple[ReplyLoop, list[object]], prompt: list[int]) -> None:
    """Every token must be what its provenance says; the user is told at most once."""
    loop, events = reply
    reference = Reference(prompt, 7, SLM, LLM, n=N)
    ids = [token.id for token in loop.tokens]
    seen.unverified = loop.stats.unverified
    for token in loop.tokens:
        before = ids[: token.index]
        if token.source == "edge" and token.accepted is None:
            expected = reference.draft(before)
        elif seen.strategy == "ensemble":
            continue  # its own tests have its distribution
        elif token.accepted is None:
            expected = reference.supplied(before)
        else:
            expected = reference.judged(before)
        if token.id != expected:
            seen.wrong.append(f"token {token.index} is {token.id}, not {expected}")
    if len(ids) < N and ids[-1] != len(VOCAB) - 1:
        seen.wrong.append("the reply ends early")
    told = [event.text for event in events if isinstance(event, Notice)]
    expected_notices = int(seen.hit and seen.kind != "clock jumps")
    if len(told) != expected_notices:
        seen.wrong.append(f"{len(told)} notices: {told}")
    for line in told:
        if KEY in line or not line.endswith(GOING_ON) or "\n" in line:
            seen.wrong.append(f"said: {line}")
    if seen.hit and seen.kind != "clock jumps" and not loop.stats.offline_reason:
        seen.wrong.append("no reason in the statistics")


def rows(port: int, kinds: tuple[str, ...] = ALL_KINDS) -> Iterator[Seen]:
    """All cases of some kinds."""
    for kind in kinds:
        for name in STRATEGIES:
            for pipelined in (False, True):
                yield case(port, kind, name, pipelined)


def table(seen: list[Seen]) -> str:
    """One row a kind, in Markdown."""
    lines = [
        "| fault | cases | hit | tokens without a verdict | differences |",
        "|---|---|---|---|---|",
    ]
    for kind in ALL_KINDS:
        cases = [one for one in seen if one.kind == kind]
        lines.append(
            f"| {kind} | {len(cases)} | {sum(one.hit for one in cases)} "
            f"| {sum(one.unverified for one in cases)} | {sum(len(one.wrong) for one in cases)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write the table between its marks."""
    path = Path(sys.argv[1])
    with upstream() as port:
        seen = list(rows(port))
    begin, end = "<!-- faults: begin -->", "<!-- faults: end -->"
    before, rest = path.read_text("utf-8").split(begin)
    path.write_text(f"{before}{begin}\n{table(seen)}\n{end}{rest.split(end)[1]}", "utf-8")
    for one in seen:
        if one.wrong:
            print(one)
    print(f"{len(seen)} cases, {sum(bool(one.wrong) for one in seen)} with differences")


if __name__ == "__main__":
    main()
