"""Shadow run: the device drafts, the LLM judges every draft, and both distributions are kept.

The replies are those of `hlm`: drafts from the rounded q, rejected ones replaced. So what is
measured is measured on the text that `uhlm` and `spec` write, which is the LLM's but for a small
risk. What is kept refers to the full vocabulary, unrounded, under the same sampler on both sides; q
is kept rounded too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import DataError
from ..common.prompts import Case
from ..edge.cache import TokenCache
from ..edge.policy.reward import FEATURES, features
from ..lm.chat import ChatEncoder
from ..lm.draws import Draws, Purpose, turn_seed
from ..lm.engines.protocol import Engine
from ..lm.row import Row
from ..lm.sampling import TOTAL, Sampler
from ..lm.uncertainty import expected, sampled
from ..lm.verification import judge

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """How the shadow run is made."""

    sampler: Sampler
    wire_top: int = 64
    k: int = 20
    seed: int = 0
    max_tokens: int = 128
    replies: int = 1  # to each prompt, with different draws


@dataclass(frozen=True)
class Replay:
    """One reply as both models see it. All lists are of the reply's length T.

    Attributes:
        conversation: which one it belongs to.
        ids: the drafts.
        sampled: u as published.
        expected: its expectation.
        q: the device's probability of the draft, unrounded.
        q_rounded: the same as it is sent.
        p: the LLM's.
        marks: what the reward head reads, shape (T, len(FEATURES)), with `sampled` as u.
    """

    conversation: int
    ids: list[int]
    sampled: Floats
    expected: Floats
    q: Floats
    q_rounded: Floats
    p: Floats
    marks: NDArray[np.float32]

    @property
    def beta(self) -> Floats:
        """How likely the LLM rejects each draft."""
        return np.maximum(0.0, 1.0 - self.p / self.q)

    @property
    def beta_rounded(self) -> Floats:
        """The same against the weights that are sent."""
        return np.maximum(0.0, 1.0 - self.p / self.q_rounded)

    def to_json(self) -> str:
        """One line."""
        plain: dict[str, Any] = {"conversation": self.conversation, "ids": self.ids}
        for name in ("sampled", "expected", "q", "q_rounded", "p"):
            plain[name] = [float(f"{x:.8g}") for x in getattr(self, name)]
        plain["marks"] = [[float(f"{x:.5g}") for x in row] for row in self.marks]
        return json.dumps(plain, separators=(",", ":"))

    @staticmethod
    def from_json(line: str) -> Replay:
        """The reply of one line.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        plain = json.loads(line)
        n = len(plain["ids"])
        columns = {
            name: np.array(plain[name], dtype=np.float64)
            for name in ("sampled", "expected", "q", "q_rounded", "p")
        }
        marks = np.array(plain["marks"], dtype=np.float32).reshape(n, len(FEATURES))
        if any(column.shape != (n,) for column in columns.values()):
            raise ValueError("columns of different lengths")
        return Replay(int(plain["conversation"]), plain["ids"], marks=marks, **columns)


def shadow_run(
    device: Engine, cloud: Engine, prompts: Sequence[Case], setting: Setting, done: int = 0
) -> Iterator[Replay]:
    """Reply to each prompt, `setting.replies` times; the first `done` replies are left out."""
    caches = TokenCache(device), TokenCache(cloud)
    chats = [ChatEncoder(engine.vocab) for engine in (device, cloud)]
    for turn in range(done, len(prompts) * setting.replies):
        prompt = prompts[turn % len(prompts)]
        for cache, chat in zip(caches, chats, strict=True):
            cache.restart(chat.encode(prompt.messages))
        seed = turn_seed(setting.seed, turn)
        yield shadow(*caches, setting, seed, prompt.conversation)


def shadow(
    device: TokenCache, cloud: TokenCache, setting: Setting, seed: int, conversation: int = 0
) -> Replay:
    """One reply that the device drafts and the LLM settles, and both distributions there.

    Args:
        device: begun with the prompt as its own template renders it.
        cloud: the same of the LLM.
        setting: sampler, rounding, K, longest reply.
        seed: of the reply.
        conversation: which one it belongs to.

    Raises:
        DataError: a prompt leaves no room for a reply.
    """
    room = min(device.room, cloud.room, setting.max_tokens)
    if room < 1:
        raise DataError(f"a prompt of {len(device)} tokens leaves no room for a reply; shorten it")
    draws = Draws(seed, setting.k)
    ends = device.engine.vocab.end_ids | cloud.engine.vocab.end_ids
    ids: list[int] = []
    token = -1
    columns: list[tuple[float, float, float, float, float]] = []
    marks = []
    while len(ids) < room and token not in ends:
        i = len(ids)
        row = Row(device.row())
        rounded = setting.sampler.distribution(row, setting.wire_top)
        draft = rounded.draw(draws.one(Purpose.DRAFT, i))
        u = sampled(row, draft, draws.thetas(i), draws.perturbs(i))
        q = float(setting.sampler.probs(row)[draft])
        target = setting.sampler.probs(Row(cloud.row()))
        verdict = judge([draft], [rounded], [target], seed, i)
        token = draft if verdict.replacement is None else verdict.replacement
        weight = rounded.weight(draft) / TOTAL
        columns.append((u, expected(row, draft), q, weight, float(target[draft])))
        marks.append(features(row, draft, u))
        ids.append(draft)
        device.append(token)
        cloud.append(token)
    u_sampled, u_expected, q_full, q_rounded, p = np.array(columns).T
    return Replay(conversation, ids, u_sampled, u_expected, q_full, q_rounded, p, np.array(marks))
