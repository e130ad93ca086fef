"""What a call to the verifier costs beside the model, and what the project's link gains by it.

`python -m uhlm_edge.experiments.link [--rounds 5]` prints two tables. The demo pair, one device, a
verifier in a process of its own on loopback, a thread for each model.

Rules of the figures:
- Added: a call's time as the device's link sees it, less the time that the verifier spent in its
  model. The parts are medians over calls; every call is made three times in turn: by the link, with
  the same bytes over a bare socket in a second session, and as `GET /health` over a bare socket.
- The plain script is what one would write first: a draft, the whole distribution as float16 in the
  body of `requests.post`, a server (uvicorn, ASGI, nothing around it) that accepts or resamples.
- Script and `hlm` take turns, reply by reply, over the same prompts at the same temperature; the
  first token of a reply, and with it the prompt, does not count.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from numpy.typing import NDArray

from ..edge.cache import TokenCache
from ..edge.chat.demo import DemoVerifier
from ..edge.decode.drafter import Device
from ..edge.decode.loop import ReplyLoop
from ..edge.link.http import HttpLink
from ..edge.link.protocol import Deadline
from ..edge.link.session import Prompt, Session
from ..edge.policy.strategy import make_strategy
from ..lm.chat import ChatEncoder
from ..lm.engines.llama import LlamaEngine
from ..lm.engines.options import EngineOptions
from ..lm.sampling import Sampler
from ..models.resolve import find_model
from ..wire.messages import MEDIA_TYPE, Conflict, Reply, Request

QUESTIONS = (
    "I would like to book a table for two in Albany tonight.",
    "Please look for a one way flight from Washington to San Diego on next Friday.",
    "Can you help me to plan a weekend by the sea?",
    "What is 17 plus 25?",
)
TOKENS = 96
ONE_THREAD = EngineOptions(n_threads=1, n_threads_batch=1, n_ctx=1024)
SAMPLER = Sampler()


class BareSocket:
    """HTTP over a socket, with nothing around it."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"

    def ask(self, line: str, more: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Status and body."""
        head = f"{line} HTTP/1.1\r\n{self._head}{more}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._socket.recv(1 << 16)
        head_bytes, _, content = answer.partition(b"\r\n\r\n")
        size = int(head_bytes.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(content) < size:
            content += self._socket.recv(1 << 16)
        return int(answer[9:12]), content


class ProbingLink(HttpLink):
    """Makes each call three times, and notes what each way took."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(url, key)
        self.parts: dict[str, list[float]] = {}
        self._bare = BareSocket(url, key)
        self._twin = secrets.token_hex(16)
        self._session = ""

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        if session_id != self._session:  # a new conversation
            self._session, self._twin = session_id, secrets.token_hex(16)
        begun = time.perf_counter()
        body = request.pack()
        packed = time.perf_counter()
        reply = super().verify(session_id, request, n_vocab, deadline)
        told = time.perf_counter()
        more = f"X-Session-Id: {self._twin}\r\nContent-Type: {MEDIA_TYPE}\r\n"
        status, answer = self._bare.ask("POST /v1/verify", more, body)
        bare = time.perf_counter()
        self._bare.ask("GET /health")
        empty = time.perf_counter()
        if isinstance(reply, Conflict) or status != 200 or request.start == 0:
            return reply
        twin = Reply.unpack(answer, request, n_vocab, self._twin)
        unpacked = time.perf_counter() - empty
        link, over_socket, health = told - packed, bare - told, empty - bare
        model, twin_model = reply.us.model / 1e6, twin.us.model / 1e6
        for name, seconds in {
            "request to bytes": packed - begun,
            "HTTP library of the device": link - model - (over_socket - twin_model) - unpacked,
            "bytes to reply": unpacked,
            "sockets, and the verifier's HTTP": health,
            "verifier around the model": over_socket - twin_model - health,
            "added": packed - begun + link - model,
            "model": model,
        }.items():
            self.parts.setdefault(name, []).append(1e3 * seconds)
        return reply


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """At the session's temperature, shape (V,)."""
    mass = np.exp((logits - logits.max()) / np.float32(SAMPLER.temperature))
    return np.asarray(mass / mass.sum(), dtype=np.float32)


def plain_reply(slm: LlamaEngine, url: str, http: requests.Session, prompt: list[int]) -> float:
    """One reply of the plain script; tokens per second after the first."""
    rng = np.random.default_rng(1)
    slm.truncate(0)
    http.post(url + "/prompt", data=np.array(prompt, dtype="<u4").tobytes())
    row, ends = slm.eval(prompt)[0], []
    for _ in range(TOKENS):
        q = softmax(row)
        draft = min(int(q.cumsum().searchsorted(rng.random())), len(q) - 1)
        headers = {"x-draft": str(draft)}
        answer = http.post(url + "/token", data=q.astype(np.float16).tobytes(), headers=headers)
        token = int(answer.content)
        ends.append(time.perf_counter())
        if token in slm.vocab.end_ids:
            break
        row = slm.eval([token])[0]
    return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 8 else 0.0


def hlm_reply(device: Device, link: HttpLink, prompt: list[int], pipelined: bool) -> float:
    """The same with the project's loop and link."""
    session = Session(link, device.vocab)
    device.cache.engine.truncate(0)
    fresh = replace(device, cache=TokenCache(device.cache.engine))
    loop = ReplyLoop(
        fresh, session, make_strategy("hlm"), Prompt(prompt, None, 1, TOKENS), pipelined
    )
    ends = [time.perf_counter() for _ in loop.events()]
    session.close()
    return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 8 else 0.0


def serve(listener: socket.socket) -> None:
    """The plain script's server."""
    import uvicorn

    llm = LlamaEngine(find_model("demo-llm"), ONE_THREAD)
    rng, last = np.random.default_rng(2), [0]

    def settle(draft: int, q: NDArray[np.float16]) -> int:
        p = softmax(llm.eval(last)[0])
        if rng.random() * q[draft] < p[draft]:
            return draft
        mass = np.maximum(p - q, 0.0).cumsum()
        return min(int(mass.searchsorted(rng.random() * mass[-1])), len(p) - 1)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = b"ok"
        if scope["path"] == "/prompt":
            ids = np.frombuffer(body, dtype="<u4").tolist()
            llm.truncate(0)
            llm.eval(ids[:-1])
            last[:] = ids[-1:]
        elif scope["path"] == "/token":
            draft = int(dict(scope["headers"])[b"x-draft"])
            last[:] = [settle(draft, np.frombuffer(body, dtype=np.float16))]
            answer = str(last[0]).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    config = uvicorn.Config(app, access_log=False, log_level="error", lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def plain_server() -> Iterator[str]:
    """It in a process of its own; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "uhlm_edge.experiments.link", "--serve"]
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, str(listener.fileno())], pass_fds=[listener.fileno()]
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.kill()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that each prompt is answered")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.serve:
        serve(socket.socket(fileno=args.serve))
        return
    slm = LlamaEngine(find_model("demo-slm"), ONE_THREAD)
    device = Device(TokenCache(slm), SAMPLER)
    chat, http = ChatEncoder(slm.vocab), requests.Session()
    prompts = [chat.encode([{"role": "user", "content": text}]) for text in QUESTIONS]
    rates: dict[str, list[float]] = {}
    one_thread = {f"UHLM_VERIFIER_ENGINE_N_THREADS{of}": "1" for of in ("", "_BATCH")}
    with DemoVerifier(settings=one_thread) as verifier, plain_server() as url:
        link = HttpLink(verifier.url, verifier.key)
        plain_reply(slm, url, http, prompts[0])  # both are warm when it counts
        hlm_reply(device, link, prompts[0], False)
        for _ in range(args.rounds):
            for prompt in prompts:
                found = {
                    "plain script": plain_reply(slm, url, http, prompt),
                    "hlm": hlm_reply(device, link, prompt, False),
                    "hlm, pipelined": hlm_reply(device, link, prompt, True),
                }
                for name, rate in found.items():
                    rates.setdefault(name, []).append(rate)
        probing = ProbingLink(verifier.url, verifier.key)
        for prompt in prompts * args.rounds:
            hlm_reply(device, probing, prompt, False)
    print("| part of a call | median ms | p5 ms |\n|---|---:|---:|")
    for name, ms in probing.parts.items():
        print(f"| {name} | {statistics.median(ms):.3f} | {np.percentile(ms, 5):.3f} |")
    print(
        "\n| | tokens/s, median of replies | beside the script, median | n |\n|---|---:|---:|---:|"
    )
    for name, each in rates.items():
        pairs = [(a, b) for a, b in zip(each, rates["plain script"], strict=True) if a and b]
        ratio = statistics.median(a / b for a, b in pairs)
        rate = statistics.median(a for a, _ in pairs)
        print(f"| {name} | {rate:.0f} | {ratio:.2f} | {len(pairs)} |")


if __name__ == "__main__":
    main()
