"""The standard ensemble: both models at each token, the next one drawn from the mixture.

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
from ...lm.verification import mixture

__all__ = ["write_standard"]


def write_standard(
    models: Sequence[Engine],
    prompts: Sequence[Sequence[int]],
    weights: Sequence[float],
    sampler: Sampler,
    wire_top: int,
    seed: int,
    max_tokens: int,
) -> list[int]:
    """A reply drawn from the weighted mixture of all models' laws.

    The laws are sparse and rounded as in the speculative ensemble, so both write by the same r.

    Args:
        models: each reads its prompt and the reply.
        prompts: the conversation as each model's template renders it.
        weights: of the models, summing to 1.
        sampler: applied to each model.
        wire_top: most ids of a law.
        seed: of the reply.
        max_tokens: its length at most.
    """
    tapes = [TokenCache(model) for model in models]
    for tape, prompt in zip(tapes, prompts, strict=True):
        tape.engine.truncate(0)
        tape.restart(prompt)
    draws, reply = Draws(seed), list[int]()
    ends = frozenset().union(*(model.vocab.end_ids for model in models))
    room = min(max_tokens, *(tape.room for tape in tapes))
    while len(reply) < room and not (reply and reply[-1] in ends):
        rows = [tape.row() for tape in tapes]
        laws = [sampler.distribution(Row(row), wire_top).probs(len(row)) for row in rows]
        token = resample(mixture(weights, laws), None, draws.one(Purpose.BONUS, len(reply)))
        for tape in tapes:
            tape.append(token)
        reply.append(token)
    return reply
