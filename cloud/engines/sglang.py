"""SGLang as the large model: its own `/generate` with `input_ids`.

It keeps its prefix cache up to `logprob_start_len`, and tells log-probabilities from there on: of
the engines at hand the best fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...common.errors import EngineError
from .http import JsonClient
from .protocol import Top
from .vllm import served

_PLAIN = {
    "max_new_tokens": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}


class SglangUpstream:
    """An SGLang server.

    Args:
        client: connections to it.
        top: ids told per position.
        model: which of those it serves; None: the first.

    Raises:
        ModelError: it serves no such model.
        EngineError: it does not answer.
    """

    def __init__(self, client: JsonClient, top: int, model: str | None = None) -> None:
        self.top = top
        self._client = client
        self.name, n_ctx = served(client, model)
        self.n_ctx = n_ctx - 1  # a question takes one token of the model's own
        self.rows([0, 0], 2)

    def rows(self, ids: Sequence[int], n: int) -> list[Top]:
        body: dict[str, Any] = {
            "input_ids": list(ids),
            "sampling_params": _PLAIN,
            "return_logprob": True,
            # The entry at this index is about an id whose own row lies before it: it is empty.
            "logprob_start_len": len(ids) - n if n > 1 else -1,
            "top_logprobs_num": self.top,
            "return_text_in_logprobs": False,
            "stream": False,
        }
        meta = self._client.post("/generate", body).get("meta_info")
        try:
            inside = meta["input_top_logprobs"][1:] if n > 1 else []
            rows = [self._top(row) for row in [*inside, *meta["output_top_logprobs"]]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EngineError(
                f"{self._client.url} answers not as SGLang does ({error!r})"
            ) from None
        if len(rows) != n:
            raise EngineError(f"{self._client.url} tells {len(rows)} positions of {n}")
        return rows

    def _top(self, entries: Sequence[Sequence[Any]]) -> Top:
        """Entries are [log-probability, id, text or null]."""
        if not entries:
            raise ValueError("a position without ids")
        best = sorted(((float(e[0]), int(e[1])) for e in entries), reverse=True)[: self.top]
        return Top(
            np.array([pair[1] for pair in best], dtype=np.int64),
            np.array([pair[0] for pair in best], dtype=np.float32),
        )

    def close(self) -> None:
        self._client.close()
