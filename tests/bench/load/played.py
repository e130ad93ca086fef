"""Traces made of the fake device, and a server that answers from a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from uhlm_edge.bench.load.trace import Trace, Turn
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Sampler
from uhlm_edge.wire.messages import Info, Limits, Reply, Request, Settings, prefix_hash

from ...fakes import CLOUD, DEVICE

N_VOCAB = len(DEVICE.vocab)
INFO = Info.of("fake", CLOUD.vocab, 256, Limits())
SAMPLER = Sampler(temperature=1.0, top_k=0, top_p=1.0)


def trace(text: str = "hello", length: int = 12, wrong: tuple[int, ...] = ()) -> Trace:
    """A reply of the fake device; at the positions `wrong` something else was settled."""
    prompt = DEVICE.vocab.tokenize(text)
    ids, turns = list(prompt), []
    for at in range(length):
        q = SAMPLER.distribution(Row(DEVICE.row(ids)))
        draft = q.draw((at * 0.37) % 1.0)
        settled = (draft + 1) % 256 if at in wrong else draft
        turns.append(Turn(draft, q, settled))
        ids.append(settled)
    settings = Settings(sampler=SAMPLER, seed=3, origin=len(prompt))
    return Trace(tuple(prompt), settings, tuple(turns), 0.1)


class Asked(NamedTuple):
    """A request as the server got it."""

    number: int
    session: str
    body: bytes
    texts: dict[str, list[int]]  # what it holds, by session


def accepting(asked: Asked) -> bytes:
    """The answer of a verifier that accepts everything."""
    request = Request.unpack(asked.body, Limits(), N_VOCAB)
    n = len(request.drafts)
    betas = [0.0] * (len(request.weights) + n)
    held = request.start + len(request.tokens)
    text = asked.texts.get(asked.session, [])[: request.start]
    binding = request.binding(asked.session, prefix_hash(text))
    asked.texts[asked.session] = text + list(request.tokens)
    reply = Reply(request.id, request.start, n, [], betas, held, binding=binding)
    return http(200, reply.pack(), "content-type: application/msgpack")


def http(status: int, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def scripted(answer: Callable[[Asked], bytes | None]) -> AsyncIterator[str]:
    """The URL of a server that sends `answer(request)` to each request; None hangs up."""
    seen, texts = 0, dict[str, list[int]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                session = head.lower().split("x-session-id: ")[1].split("\r\n")[0]
                size = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                body = await reader.readexactly(size)
                seen += 1
                said = answer(Asked(seen - 1, session, body, texts))
                if said is None:
                    return
                writer.write(said)
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
