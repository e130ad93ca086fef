"""Shadow run: the device writes alone, the LLM looks on, and both laws are kept for each token.

The device's replies are those of `local`: drafts from the rounded q. What is kept refers to the
full vocabulary, unrounded, under the same sampler on both sides; q is kept rounded too. The LLM
sees each reply in one pass after it is finished.
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

__all__ = ["Replay", "Setting", "shadow", "shadow_run"]

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
    """One reply of the device as both models see it. All lists are of the reply's length T.

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
    tape = TokenCache(device)
    chats = [ChatEncoder(engine.vocab) for engine in (device, cloud)]
    for turn in range(done, len(prompts) * setting.replies):
        prompt = prompts[turn % len(prompts)]
        own, other = (chat.encode(prompt.messages) for chat in chats)
        seed = turn_seed(setting.seed, turn)
        yield shadow(tape, cloud, own, other, setting, seed, prompt.conversation)


def shadow(
    tape: TokenCache,
    cloud: Engine,
    own: Sequence[int],
    other: Sequence[int],
    setting: Setting,
    seed: int,
    conversation: int = 0,
) -> Replay:
    """One reply of the device, then the LLM's law at each of its positions.

    Args:
        tape: of the device.
        cloud: the LLM.
        own: the prompt as the device's template renders it.
        other: the same for the LLM.
        setting: sampler, rounding, K, longest reply.
        seed: of the reply.
        conversation: which one it belongs to.

    Raises:
        DataError: a prompt leaves no room for a reply.
    """
    room = min(tape.engine.n_ctx - len(own), cloud.n_ctx - len(other), setting.max_tokens)
    if room < 1:
        raise DataError(f"a prompt of {len(own)} tokens leaves no room for a reply; shorten it")
    draws = Draws(seed, setting.k)
    ends = tape.engine.vocab.end_ids | cloud.vocab.end_ids
    tape.restart(own)
    ids: list[int] = []
    columns: list[tuple[float, float, float, float]] = []
    marks = []
    while len(ids) < room and not (ids and ids[-1] in ends):
        row = Row(tape.row())
        rounded = setting.sampler.distribution(row, setting.wire_top)
        draft = rounded.draw(draws.one(Purpose.DRAFT, len(ids)))
        u = sampled(row, draft, draws.thetas(len(ids)), draws.perturbs(len(ids)))
        q = float(setting.sampler.probs(row)[draft])
        columns.append((u, expected(row, draft), q, rounded.weight(draft) / TOTAL))
        marks.append(features(row, draft, u))
        ids.append(draft)
        tape.append(draft)
    cloud.truncate(0)
    rows = cloud.eval([*other, *ids[:-1]], rows=len(ids))
    p = [float(setting.sampler.probs(Row(row))[d]) for row, d in zip(rows, ids, strict=True)]
    u_sampled, u_expected, q_full, q_rounded = np.array(columns).T
    return Replay(
        conversation, ids, u_sampled, u_expected, q_full, q_rounded, np.array(p), np.array(marks)
    )
