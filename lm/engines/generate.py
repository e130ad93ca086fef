"""The plainest way to write: one model, one token after another, drawn by whatever the caller says.

Where only the text of a model is wanted. The generation loop of the product is `edge/decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..row import Row
from .protocol import Engine


class Step(NamedTuple):
    """A token, and the row that it was chosen from: valid until the next step."""

    row: Row
    token: int


def generate(
    engine: Engine, prompt: Sequence[int], choose: Callable[[Row], int], limit: int
) -> Iterator[Step]:
    """Continue `prompt` by at most `limit` tokens, the end of text being the last.

    Args:
        engine: what it holds is forgotten.
        prompt: at least one id.
        choose: the next token after a row.
        limit: most tokens; where the context has less room, fewer or none.

    Raises:
        EngineError: the model failed, or gave no logits.
    """
    engine.truncate(0)
    unread = list(prompt)
    for _ in range(min(limit, engine.n_ctx - len(prompt))):
        row = Row(engine.eval(unread)[0])
        token = choose(row)
        yield Step(row, token)
        if token in engine.vocab.end_ids:
            return
        unread = [token]
