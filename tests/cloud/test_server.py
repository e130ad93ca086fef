"""A real server process: it stops in order, and devices use it again after a crash."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from uhlm_edge.common.errors import CloudError, Overloaded, Refused, Unreachable
from uhlm_edge.configs.config import StrategyName
from uhlm_edge.edge.cache import TokenCache
from uhlm_edge.edge.decode.drafter import Device
from uhlm_edge.edge.decode.loop import ReplyLoop
from uhlm_edge.edge.events import Draft, Notice, Outcome
from uhlm_edge.edge.link.breaker import Breaker
from uhlm_edge.edge.link.http import HttpLink
from uhlm_edge.edge.link.protocol import Deadline
from uhlm_edge.edge.link.session import Prompt, Session
from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.edge.stats import Stats
from uhlm_edge.edge.transcript import Transcript
from uhlm_edge.lm.draws import Purpose, uniform
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.lm.targets import LLM
from uhlm_edge.models import shipped as models
from uhlm_edge.wire.messages import Reply, Request, Settings, prefix_hash

from ..edge.pairs import Clock

pytestmark = pytest.mark.slow

KEY = "sk-test-0123456789abcdef"
HOT = Settings(sampler=Sampler(temperature=9.0, top_k=0), origin=600)  # hardly ever ends the text
SCRIPT = """
import sys
from pathlib import Path
from uhlm_edge.models import shipped as models
from uhlm_edge.common.keys import Keys
from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.server import bind, serve
from uhlm_edge.cloud.service import load_service
from uhlm_edge.lm.engines.options import EngineOptions

engine = EngineOptions(n_threads=1, n_threads_batch=1)  # others may use the machine
options = VerifierOptions(port=int(sys.argv[1]), engine=engine)
keys = Keys([sys.argv[2]])
listener = bind(options, keys)
service = load_service(models.path_of("demo-llm"), options, keys)
listener.listen()
print(listener.getsockname()[1], flush=True)
serve(service, options, listener)
"""


class Server:
    """The verifier with the demo LLM, in a process of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.port), KEY], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)

    @property
    def calls(self) -> int:
        """Calls that have begun."""
        headers = {"authorization": f"Bearer {KEY}"}
        asked = urllib.request.Request(f"{self.url}/metrics", headers=headers)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            found = re.search(rb"uhlm_calls_total (\d+)", answer.read())
        assert found
        return int(found[1])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def slm() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(models.path_of("demo-slm"), EngineOptions(n_threads=1, n_threads_batch=1))
    yield engine
    engine.close()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="nothing can be stopped here")
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("name", ["hlm", "spec"])
def test_while_the_verifier_is_stopped_the_reply_goes_on_and_then_it_is_hybrid_again(
    name: StrategyName, pipelined: bool, server: Server, slm: LlamaEngine
) -> None:
    """Not dead but stopped: it takes connections, and answers nothing."""
    slm.truncate(0)
    prompt, n = slm.vocab.tokenize("The weather is"), 40
    clock, sampler = Clock(), Sampler(temperature=5.0, top_k=0)
    session = Session(HttpLink(server.url, KEY), slm.vocab, "slm", 120.0, Breaker(clock))
    loop = ReplyLoop(
        Device(TokenCache(slm), sampler),
        session,
        make_strategy(name, draft_limit=2),
        Prompt(prompt, None, 7, n),
        pipelined,
    )
    said = []
    for event in loop.events():
        said.append(event)
        n_alone = sum(token.unverified for token in loop.tokens)
        if len(loop.tokens) == 5 and not n_alone:
            server.process.send_signal(signal.SIGSTOP)
            session._seconds = 0.2  # nothing is answered, so no machine is too slow for it
        elif n_alone == 10 and session._seconds < 1.0:
            server.process.send_signal(signal.SIGCONT)
            session._seconds = 120.0
            clock.now += 1000.0
    session.close()
    assert len(loop.tokens) > 25
    alone = [token.index for token in loop.tokens if token.unverified]
    assert 10 <= len(alone) <= 14
    assert alone == list(range(alone[0], alone[-1] + 1))  # none before, none after
    assert len([event for event in said if isinstance(event, Notice)]) == 1
    slm.truncate(0)
    slm.eval(prompt[:-1])
    for token, before in zip(loop.tokens, [prompt[-1], *(t.id for t in loop.tokens)], strict=False):
        q = sampler.distribution(Row(slm.eval([before])[0]), 64)
        if token.unverified:  # what the device alone writes there
            assert token.id == q.draw(uniform(7, Purpose.DRAFT, token.index))


def test_a_crash_in_the_middle_costs_nothing_but_the_calls_meanwhile(
    server: Server, slm: LlamaEngine
) -> None:
    prompt = slm.vocab.tokenize("The weather is")
    sampler = Sampler()
    session = Session(HttpLink(server.url, KEY), slm.vocab, "slm", deadline=30.0)
    slm.truncate(0)
    cache = TokenCache(slm)
    text = Transcript(cache, prompt, 64, lambda: 0.0)
    session.begin(text, Prompt(prompt, None, 7, 64), sampler, LLM, Stats("test"))

    def ask() -> Reply:
        q = sampler.distribution(Row(cache.row()))
        text.push(Draft(len(text.tokens), q.draw(0.5), q))
        try:
            reply = session.conclude(session.submit(text.drafts))
            if reply.accepted:
                text.commit_draft(uploaded=True, accepted=True)
        finally:
            text.rollback()
        for token in reply.tokens:
            text.commit(token, None, Outcome(reply.accepted, reply.tokens))
        text.answered = len(text.tokens)
        return reply

    for _ in range(3):
        ask()
    settled = list(cache.ids)
    server.stop()
    with pytest.raises(Unreachable):
        ask()
    assert cache.ids == settled
    server.start()
    wait_until(lambda: session.ready)
    reply = ask()
    assert reply.held == len(cache) == len(settled) + 1
    session.close()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_graceful_stop_finishes_running_calls_and_takes_no_new_ones(server: Server) -> None:
    link = HttpLink(server.url, KEY)
    info = link.info(Deadline(30))
    n_vocab = info.fingerprint[0]
    long = [i % 500 for i in range(600)]
    request = Request(1, 0, prefix_hash([]), long, bonus=64, settings=HOT)
    before = threading.active_count()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(link.verify, "a" * 32, request, n_vocab, Deadline(60))
        wait_until(lambda: server.calls == 1)
        server.process.send_signal(signal.SIGTERM)
        new = Request(1, 0, prefix_hash([]), [1, 2], bonus=1, settings=Settings(origin=2))
        failures: list[CloudError] = []
        while not running.done():
            try:
                HttpLink(server.url, KEY).verify("b" * 32, new, n_vocab, Deadline(0.5))
            except CloudError as error:
                failures.append(error)
            time.sleep(0.05)
        reply = running.result(60)
    assert isinstance(reply, Reply)
    assert len(reply.tokens) >= 1
    assert all(isinstance(error, Unreachable | Overloaded) for error in failures)
    assert server.process.wait(60) == 0
    with pytest.raises(Unreachable):
        link.verify("c" * 32, new, n_vocab, Deadline(5))
    assert threading.active_count() <= before


def test_a_key_is_wanted_and_a_port_in_use_is_said(server: Server) -> None:
    with pytest.raises(Refused, match="UHLM_API_KEY"):
        HttpLink(server.url, "sk-wrong").info(Deadline(30))
    second = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(server.port), KEY], capture_output=True, text=True
    )
    assert second.returncode != 0
    assert "choose another with --port" in second.stderr
