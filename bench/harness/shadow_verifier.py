"""The LLM looks at a finished reply: how likely would it have rejected each draft?

This is shadow verification. It happens after the reply, outside the timed path, with a model of its
own in this process: the verifier and its counters do not notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...common.prompts import Message
from ...edge.events import Draft
from ...lm.chat import ChatEncoder
from ...lm.engines.protocol import Engine, Logits
from ...lm.row import Row
from ...lm.sampling import TOTAL, Sampler, rejection

ROWS = 64
"""Rows of logits in one of its passes."""


class ShadowVerifier:
    """A model that reads conversations and what was replied.

    Args:
        engine: with room for ROWS rows.
        sampler: that of the session.
    """

    def __init__(self, engine: Engine, sampler: Sampler) -> None:
        self.engine = engine
        self._sampler = sampler
        self._chat = ChatEncoder(engine.vocab)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation as this model's template renders it."""
        return self._chat.encode(messages)

    def rows(self, prompt: Sequence[int], reply: Sequence[int]) -> Logits:
        """The logits that each id of the reply was chosen from, shape (len(reply), V)."""
        self.engine.truncate(0)
        return self.engine.eval([*prompt, *reply[:-1]], rows=len(reply))

    def betas(
        self, prompt: Sequence[int], reply: Sequence[int], drafts: Mapping[int, Draft]
    ) -> dict[int, float]:
        """beta of each draft against the weight that was (or would have been) sent.

        Args:
            prompt: ids of the conversation, system message included.
            reply: its settled ids.
            drafts: what the device proposed at each position of it.
        """
        if not drafts:
            return {}
        rows = self.rows(prompt, reply)
        return {
            i: rejection(float(self._sampler.probs(Row(rows[i]))[draft.id]), draft.weight / TOTAL)
            for i, draft in drafts.items()
            if i < len(reply)
        }
