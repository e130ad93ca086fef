"""vLLM as the large model: `/v1/completions` with token ids as the prompt.

Log-probabilities of the next token come with one generated token. Those inside a text come as
`prompt_logprobs`, for which vLLM reads the whole text again and tells every position of it, or as
those of the next token of each beginning, for which it keeps its prefix cache. The one costs as
much as the text is long, the other about a block of the cache for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...common.errors import EngineError, ModelError
from .http import JsonClient
from .protocol import Top

_BLOCK = 16  # ids of a block of its prefix cache; some are larger
_TOKEN = "token_id:"  # noqa: S105 - how vLLM names ids when asked to
# Whatever the model's own generation settings are: log-probabilities of the plain model.
_PLAIN = {
    "max_tokens": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
    "return_tokens_as_token_ids": True,
}


class VllmUpstream:
    """A vLLM server.

    Args:
        client: connections to it.
        top: ids told per position; more than 20 need `vllm serve --max-logprobs`.
        model: which of those it serves; None: the first.

    Raises:
        ModelError: it serves no such model, or allows fewer log-probabilities.
        EngineError: it does not answer.
    """

    def __init__(self, client: JsonClient, top: int, model: str | None = None) -> None:
        self.top = top
        self._client = client
        self.name, n_ctx = served(client, model)
        self.n_ctx = n_ctx - 1  # a question takes one token of the model's own
        try:
            self.rows([0, 0], 2)
        except EngineError as error:
            if "max allowed" in str(error):
                raise ModelError(
                    f"{client.url} tells fewer than {top} log-probabilities: start it with "
                    f"--max-logprobs {top}, or give a smaller verifier.upstream.top ({error})"
                ) from None
            raise

    def rows(self, ids: Sequence[int], n: int) -> list[Top]:
        body: dict[str, Any] = {
            **_PLAIN, "model": self.name, "prompt": list(ids), "logprobs": self.top
        }  # fmt: skip
        apart = n > 1 and len(ids) >= _BLOCK * n
        if apart:
            body["prompt"] = [list(ids[:end]) for end in range(len(ids) - n + 1, len(ids) + 1)]
        elif n > 1:
            body["prompt_logprobs"] = self.top
        answer = self._client.post("/v1/completions", body)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            inside = [] if apart or n == 1 else choices[0]["prompt_logprobs"][len(ids) - n + 1 :]
            rows = [
                _top({int(i): entry["logprob"] for i, entry in row.items()}, self.top)
                for row in inside
            ]
            for choice in choices:
                (last,) = choice["logprobs"]["top_logprobs"]
                rows.append(_top({_id(name): value for name, value in last.items()}, self.top))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise EngineError(f"{self._client.url} answers not as vLLM does ({error!r})") from None
        if len(rows) != n:
            raise EngineError(f"{self._client.url} tells {len(rows)} positions of {n}")
        return rows

    def close(self) -> None:
        self._client.close()


def served(client: JsonClient, model: str | None) -> tuple[str, int]:
    """Name and context of a served model, from the OpenAI-compatible list that both engines have.

    Raises:
        ModelError: it does not serve it.
    """
    try:
        found = {one["id"]: one.get("max_model_len") for one in client.get("/v1/models")["data"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{client.url} lists no models ({error!r})") from None
    name = model or next(iter(found), "")
    if name not in found:
        raise ModelError(
            f"{client.url} does not serve {name or 'a model'}: it has {', '.join(found) or 'none'}"
        )
    n_ctx = found[name]
    if type(n_ctx) is not int or n_ctx < 2:
        raise ModelError(f"{client.url} does not say how long a text of {name} may be")
    return name, n_ctx


def _id(name: str) -> int:
    if not name.startswith(_TOKEN):
        raise ValueError(f"{name!r} is no token id")
    return int(name.removeprefix(_TOKEN))


def _top(found: Mapping[int, float], top: int) -> Top:
    """The `top` most likely ones: the prompt's or the sampled id stands beside them in any case."""
    best = sorted(found.items(), key=lambda pair: -pair[1])[:top]
    if not best:
        raise ValueError("a position without ids")
    return Top(
        np.array([pair[0] for pair in best], dtype=np.int64),
        np.array([pair[1] for pair in best], dtype=np.float32),
    )
