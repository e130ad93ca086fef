"""The ensemble baseline: both models at each token, the next one drawn from the mixture.

The reference that a speculative ensemble is measured against. In one process, with nothing between
the models, so that no protocol weighs on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...edge.cache import TokenCache
from ...lm.draws import Draws, Purpose
from ...lm.engines.protocol import Engine
from ...lm.row import Row
from ...lm.sampling import Sampler, resample
from ...lm.targets import Weighted, sampler_of_parts
from ...lm.verification import mixture


def write_baseline(
    models: Sequence[Engine],
    prompts: Sequence[Sequence[int]],
    weights: Sequence[float],
    sampler: Sampler,
    wire_top: int,
    seed: int,
    max_tokens: int,
) -> list[int]:
    """A reply drawn from the weighted mixture of all models' distributions.

    Each part is sparse and rounded as in the speculative ensemble, so both write by the same r.

    Args:
        models: each reads its prompt and the reply.
        prompts: the conversation as each model's template renders it.
        weights: of the models, summing to 1.
        sampler: applied to each model.
        wire_top: most ids of a distribution.
        seed: of the reply.
        max_tokens: its length at most.
    """
    tapes = [TokenCache(model) for model in models]
    for tape, prompt in zip(tapes, prompts, strict=True):
        tape.engine.truncate(0)
        tape.restart(prompt)
    made = sampler_of_parts(sampler, Weighted())
    draws, reply = Draws(seed), list[int]()
    ends = frozenset().union(*(model.vocab.end_ids for model in models))
    room = min(max_tokens, *(tape.room for tape in tapes))
    while len(reply) < room and not (reply and reply[-1] in ends):
        rows = [tape.row() for tape in tapes]
        parts = [made.distribution(Row(row), wire_top).probs(len(row)) for row in rows]
        r = mixture(weights, parts)
        u = draws.one(Purpose.BONUS, len(reply))
        token = int(r.argmax()) if sampler.greedy else resample(r, None, u)
        for tape in tapes:
            tape.append(token)
        reply.append(token)
    return reply
