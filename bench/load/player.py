"""A device of the load test: plays recorded replies, call by call, and notes how each one went."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from ...wire.messages import Conflict, Reply, Request, Settings, prefix_hash
from .client import Client
from .plan import Load

_MORE_TRIES = 2
_LONGEST_PAUSE = 2.0


class Sample(NamedTuple):
    """One answered call.

    Attributes:
        kind: `first` (with a prompt), `verify`, or `prefill`.
        end: when it was answered, seconds of the monotonic clock.
        seconds: from the first try to the answer.
        queue, model: seconds in the verifier's queue and in its model, as it says.
        drafts: judged.
        accepted: of them.
    """

    kind: str
    end: float
    seconds: float
    queue: float
    model: float
    drafts: int
    accepted: int


@dataclass
class Log:
    """What all devices note. Only calls and tokens while `open` count.

    Attributes:
        errors: tries that failed, by HTTP status or kind.
        tokens: written on all devices.
        unverified: of them, those whose upload brought no answer.
        arrived: devices that have had an answer.
    """

    open: bool = False
    samples: list[Sample] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    unverified: int = 0
    arrived: int = 0

    def error(self, kind: str) -> None:
        if self.open:
            self.errors[kind] += 1


class Player:
    """One device with one session.

    The text is the recorded one whatever the verifier says, so that every run asks the same: where
    its reply differs, the next call begins before the difference, as after a rollback.

    Args:
        client: its connection.
        log: where calls are noted.
        load: what is played.
    """

    def __init__(self, client: Client, log: Log, load: Load) -> None:
        self.client = client
        self._log = log
        self._load = load
        self._held: list[int] = []
        self._calls = 0

    async def play(self, at: int) -> None:
        """Replies one after another, beginning with number `at`, until cancelled."""
        while True:
            await self.reply(at % len(self._load.traces))
            at += 1
            await asyncio.sleep(0)  # a trace without a call must not keep the loop

    async def reply(self, number: int) -> None:
        """One reply: think, ask, go on."""
        load = self._load
        trace, steps, rate = load.traces[number], load.steps[number], load.plan.tokens_per_s
        settings: Settings | None = trace.settings
        text = [*trace.prompt, *(turn.settled for turn in trace.turns)]
        skipped: tuple[int, ...] = ()
        due = time.monotonic()
        for step in steps:
            if rate:
                due = max(due, time.monotonic()) + step.tokens / rate
                await asyncio.sleep(due - time.monotonic())
            if step.drafts:
                end = len(trace.prompt) + step.begin + len(step.skipped)
                whole = Request(
                    id=0,
                    start=0,
                    prefix=b"",
                    tokens=[*text[:end], *step.drafts],
                    weights=(*skipped, *step.skipped),
                    drafts=step.qs,
                    settings=settings,
                )
                kind = "first" if settings is not None else "verify"
                if await self.ask(whole, trace.settings, kind):
                    settings, skipped = None, ()
                else:  # the device's own token stands, unverified
                    skipped = (*skipped, *step.skipped, *(1 for _ in step.drafts))[-200:]
                    if self._log.open:
                        self._log.unverified += len(step.drafts)
            if self._log.open:
                self._log.tokens += step.tokens

    async def ask(self, whole: Request, settings: Settings, kind: str) -> bool:
        """One call with all its tries; False if it brought no answer."""
        self._calls = (self._calls + 1) % 2**32
        begun = time.monotonic()
        end = begun + self._load.plan.deadline
        send_settings = whole.settings is not None
        tries = conflicts = 0
        while time.monotonic() < end:
            request = self._request(whole, settings if send_settings else None)
            try:
                answer = await self.client.call(
                    "POST", "/v1/verify", request.pack(), max(0.001, end - time.monotonic())
                )
                if answer.status == 200:
                    n_vocab = self._load.info.fingerprint[0]
                    reply = Reply.unpack(answer.body, request, n_vocab, self.client.session_id)
                    self._log.arrived += self._calls == 1
                    self._settle(whole, reply)
                    self._note(kind, begun, reply, len(whole.drafts))
                    return True
                if answer.status == 409:
                    self._log.error("409")
                    self._forget(Conflict.from_json(json.loads(answer.body)), whole)
                    send_settings, conflicts = True, conflicts + 1
                    if conflicts > 2:
                        return False
                    continue
                self._log.error(str(answer.status))
                if answer.status not in (408, 429, 502, 503, 504):
                    return False
                pause = answer.retry_after
            except (asyncio.TimeoutError, TimeoutError):
                self._log.error("timeout")
                return False
            except (OSError, EOFError):
                self._log.error("connection")
                pause = None
            except ValueError:  # Malformed, or a 409 without JSON
                self._log.error("malformed")
                return False
            tries += 1
            if tries > _MORE_TRIES:
                return False
            wait = 0.05 * 2**tries if pause is None else min(pause, _LONGEST_PAUSE)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - not all at once
        self._log.error("timeout")
        return False

    def _request(self, whole: Request, settings: Settings | None) -> Request:
        ids = list(whole.tokens)
        first = max(0, len(ids) - len(whole.drafts) - len(whole.weights))
        pairs = zip(self._held[:first], ids, strict=False)
        start = next((i for i, (a, b) in enumerate(pairs) if a != b), min(first, len(self._held)))
        return Request(
            id=self._calls, start=start, prefix=prefix_hash(ids[:start]), tokens=ids[start:],
            weights=whole.weights, drafts=whole.drafts, bonus=whole.bonus,
            settings=whole.settings or settings,
        )  # fmt: skip

    def _settle(self, whole: Request, reply: Reply) -> None:
        kept = len(whole.tokens) - len(whole.drafts) + reply.accepted
        self._held = [*whole.tokens[:kept], *reply.tokens][: reply.held]

    def _forget(self, conflict: Conflict, whole: Request) -> None:
        ids = list(whole.tokens)
        known = conflict.held <= len(ids) and conflict.held_prefix == prefix_hash(
            ids[: conflict.held]
        )
        self._held = ids[: conflict.held] if known else []

    def _note(self, kind: str, begun: float, reply: Reply, drafts: int) -> None:
        if self._log.open:
            now, us = time.monotonic(), reply.us
            self._log.samples.append(
                Sample(kind, now, now - begun, us.queue / 1e6, us.model / 1e6, drafts,
                       reply.accepted)
            )  # fmt: skip


async def pour(player: Player, load: Load, seed: int) -> None:
    """Long prefills, as often as the plan says, each of another text, until cancelled."""
    plan = load.plan
    ids = [i for t in load.traces for i in (*t.prompt, *(turn.settled for turn in t.turns))]
    ids = (ids * (1 + plan.prefill_ids // len(ids)))[: min(plan.prefill_ids, load.info.n_ctx - 2)]
    settings = load.traces[0].settings.model_copy(update={"origin": 0})
    first = seed % len(ids)
    while True:
        await asyncio.sleep(1.0 / plan.prefills_per_s)
        first = (first + 1) % len(ids)
        text = [*ids[first:], *ids[:first]]
        await player.ask(Request(0, 0, b"", text, settings=settings), settings, "prefill")
