"""Small servers that answer as vLLM and SGLang do: fields, limits, errors; a FakeModel inside."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...fakes import CLOUD, FakeModel

N_CTX = 64
VLLM_MAX_LOGPROBS = 20  # its default
KEY = "sk-engine-0123456789abcdef"


@dataclass
class Engine:
    """A server for as long as the context lasts: where it is, and what it was asked."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    broken: dict[str, Any] | None = None  # what it answers instead


Answer = tuple[int, Any]


def log_probs(model: FakeModel, ids: Sequence[int]) -> Any:
    """Log-softmax after `ids` in float32, as engines compute it."""
    row = model.row(ids)
    return row - np.log(np.exp(row - row.max()).sum()) - row.max()


def best(row: Any, n: int) -> list[tuple[int, float]]:
    return [(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")[:n]]


def vllm(model: FakeModel, body: dict[str, Any]) -> Answer:
    def refuse(message: str, code: int = 400, kind: str = "BadRequestError") -> Answer:
        return code, {"error": {"message": message, "type": kind, "param": None, "code": code}}

    if body["model"] != model.name:
        return refuse(f"The model `{body['model']}` does not exist.", 404, "NotFoundError")
    top, inside = body["logprobs"], body.get("prompt_logprobs")
    for kind, name, asked in (
        ("sample", "logprobs", top), ("prompt", "prompt_logprobs", inside or 0)
    ):  # fmt: skip
        if asked > VLLM_MAX_LOGPROBS:
            return refuse(
                f"Requested {kind} logprobs of {asked}, which is greater than max allowed: "
                f"{VLLM_MAX_LOGPROBS} (parameter={name}, value={asked})"
            )
    prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
    choices = []
    for index, ids in enumerate(prompts):
        if len(ids) + body["max_tokens"] > N_CTX:
            return refuse(f"This model's maximum context length is {N_CTX} tokens.")
        row = log_probs(model, ids)
        sampled = int(np.argsort(row)[len(row) // 2])  # an unlikely one: it is told in any case
        told = {f"token_id:{i}": lp for i, lp in [(sampled, float(row[sampled])), *best(row, top)]}
        choice: dict[str, Any] = {
            "index": index, "text": "x", "finish_reason": "length", "stop_reason": None,
            "logprobs": {
                "text_offset": [0], "token_logprobs": [float(row[sampled])],
                "tokens": [f"token_id:{sampled}"], "top_logprobs": [told],
            },
            "token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None,
        }  # fmt: skip
        if inside is not None:
            choice["prompt_logprobs"] = [None]
            for at in range(1, len(ids)):
                row = log_probs(model, ids[:at])
                kept = [(ids[at], float(row[ids[at]])), *best(row, inside)]
                choice["prompt_logprobs"].append(
                    {str(i): {"logprob": lp, "rank": n, "decoded_token": "?"}
                     for n, (i, lp) in enumerate(kept)}
                )  # fmt: skip
        choices.append(choice)
    n_ids = sum(map(len, prompts))
    usage = {"prompt_tokens": n_ids, "completion_tokens": 1, "total_tokens": n_ids + 1}
    return 200, {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": model.name,
        "choices": choices, "usage": usage,
    }  # fmt: skip


def sglang(model: FakeModel, body: dict[str, Any]) -> Answer:
    ids, top, start = body["input_ids"], body["top_logprobs_num"], body["logprob_start_len"]
    if len(ids) >= N_CTX:
        message = f"The input ({len(ids)} tokens) is longer than the model's context length"
        return 400, {"error": {"message": message}}

    def entries(row: Any) -> list[list[Any]]:
        return [[lp, i, None] for i, lp in best(row, top)]

    start = len(ids) if start == -1 else start
    rows = [log_probs(model, ids[:at]) for at in range(start, len(ids) + 1)]
    told: list[list[list[Any]] | None] = [entries(row) for row in rows]
    meta: dict[str, Any] = {
        "id": "1", "finish_reason": {"type": "length", "length": 1}, "prompt_tokens": len(ids),
        "completion_tokens": 1, "cached_tokens": 0,
        "output_token_logprobs": [[float(rows[-1].max()), int(rows[-1].argmax()), None]],
        "output_top_logprobs": told[-1:], "input_top_logprobs": [],
    }  # fmt: skip
    if start < len(ids):
        meta["input_top_logprobs"] = [None, *told[1:-1]]
    return 200, {"text": "x", "output_ids": [int(rows[-1].argmax())], "meta_info": meta}


ROUTES: dict[str, tuple[str, Callable[[FakeModel, dict[str, Any]], Answer]]] = {
    "vllm": ("/v1/completions", vllm),
    "sglang": ("/generate", sglang),
}


@contextmanager
def engine(kind: str, model: FakeModel = CLOUD) -> Iterator[Engine]:
    """A server that answers as `kind` does, and wants a key."""
    path, answer = ROUTES[kind]
    found: Engine

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listed = {"id": model.name, "object": "model", "max_model_len": N_CTX}
            known = self.path == "/v1/models"
            self.say(*(200, {"object": "list", "data": [listed]}) if known else (404, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.headers.get("authorization") != f"Bearer {KEY}":
                self.say(401, {"error": "Unauthorized"})
            elif self.path != path:
                self.say(404, {"detail": "Not Found"})
            else:
                found.asked.append(body)
                self.say(*((200, found.broken) if found.broken else answer(model, body)))

        def say(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Engine(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
