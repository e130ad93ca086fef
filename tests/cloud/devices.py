"""A device without a network: ids, calls made of them, and what each must be answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from uhlm_edge.cloud.sessions import SessionKey
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.lm.draws import Purpose, uniform
from uhlm_edge.lm.engines.protocol import Logits, Work
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import Distribution, Sampler
from uhlm_edge.lm.verification import bonus_token, judge
from uhlm_edge.wire.messages import Reply, Request, Settings, prefix_hash

from ..fakes import CLOUD, DEVICE, FakeContext

KEY: SessionKey = ("owner", "a" * 32)
SAMPLER = Sampler()
PROMPT = list(b"hello, world")
REPLY = Settings(sampler=SAMPLER, seed=11, origin=len(PROMPT))


def q_after(ids: Sequence[int]) -> Distribution:
    return SAMPLER.distribution(Row(DEVICE.row(ids)))


def p_after(ids: Sequence[int]) -> NDArray[Any]:
    return SAMPLER.probs(Row(CLOUD.row(ids)))


def draft_after(ids: Sequence[int], seed: int = 11) -> int:
    at = len(ids) - len(PROMPT)
    return q_after(ids).draw(uniform(seed, Purpose.DRAFT, at))


class Device:
    """What a device knows: ids, and calls made of them."""

    def __init__(self, of: Verifier, key: SessionKey = KEY, prompt: Sequence[int] = PROMPT) -> None:
        self.verifier, self.key = of, key
        self.ids = list(prompt)
        self.held = 0
        self.calls = 0

    def request(
        self, drafts: int = 0, skipped: int = 0, bonus: int = 0, start: int | None = None
    ) -> Request:
        self.calls += 1
        ids, qs, weights = list(self.ids), [], []
        for i in range(skipped + drafts):
            q = q_after(ids)
            ids.append(draft_after(ids))
            if i < skipped:
                weights.append(q.weight(ids[-1]))
            else:
                qs.append(q)
        start = self.held if start is None else start
        return Request(
            id=self.calls, start=start, prefix=prefix_hash(ids[:start]), tokens=ids[start:],
            weights=weights, drafts=qs, bonus=bonus, settings=None if start else REPLY,
        )  # fmt: skip

    def ask(self, request: Request) -> Reply:
        return self.hear(request, self.verifier.verify(self.key, request))

    def hear(self, request: Request, reply: object) -> Reply:
        """Take an answer into the books."""
        assert isinstance(reply, Reply), reply
        whole = self.ids[: request.start] + list(request.tokens)
        self.ids = whole[: len(whole) - len(request.drafts) + reply.accepted] + list(reply.tokens)
        self.held = reply.held
        return reply


def expected(device: Device, request: Request) -> tuple[int, list[int]]:
    """The verdict by the rule itself, from nothing but the ids."""
    whole = device.ids[: request.start] + list(request.tokens)
    first = len(whole) - len(request.drafts)
    rs = [p_after(whole[: first + i]) for i in range(len(request.drafts))]
    verdict = judge(whole[first:], request.drafts, rs, REPLY.seed, first - REPLY.origin)
    tokens = [] if verdict.replacement is None else [verdict.replacement]
    while verdict.replacement is None and len(tokens) < request.bonus:
        text = whole + tokens
        if (request.drafts or tokens) and text[-1] in CLOUD.vocab.end_ids:
            break  # nothing follows an end
        tokens.append(bonus_token(p_after(text), REPLY.seed, len(text) - REPLY.origin))
    return verdict.accepted, tokens


class Clock:
    """Seconds that pass only when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedContext(FakeContext):
    """A context whose passes take a millisecond, and one more for every ten ids, unless told."""

    def __init__(self, clock: Clock, n_batch: int = 512, per_id: float = 1e-4) -> None:
        super().__init__(n_ctx=20_000, n_sequences=40, n_batch=n_batch)
        self.clock = clock
        self.per_id = per_id

    def decode(self, works: Sequence[Work], keep: bool = False) -> list[Logits]:
        self.clock.now += 0.001 + self.per_id * sum(len(work.tokens) for work in works)
        return super().decode(works, keep)


def device(of: Verifier, i: int, owner: str = "o", prompt: Sequence[int] = PROMPT) -> Device:
    return Device(of, (owner, f"{i:032x}"), prompt)
