"""Sharing passes changes nothing: the same ids as alone, and the distribution of the rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp as ll

from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.service import Service, load_service
from uhlm_edge.cloud.verifier import Verifier
from uhlm_edge.common.keys import Keys
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Distribution, Sampler
from uhlm_edge.models import shipped
from uhlm_edge.wire.messages import Reply, Request, Settings, prefix_hash

from ..fakes import FakeContext, FakeModel, FakeVocabulary

N_DEVICES = 16


@pytest.mark.parametrize("drafts_follow", ["uniform", "another"])
def test_sixteen_devices_at_once_settle_by_the_llm_s_distribution(drafts_follow: str) -> None:
    model = FakeModel("llm", 5, FakeVocabulary(7), end=0.0)
    plain = Sampler(temperature=1.0, top_k=0, top_p=1.0)
    prompt = [1, 2, 3]
    p = plain.probs(Row(model.row(prompt)))
    mass = np.array([1.0] * 7 if drafts_follow == "uniform" else [*range(1, 8)], np.float64)
    q = Distribution.rounded(np.arange(7), mass)
    of = Verifier(FakeContext(model, n_ctx=200, n_sequences=N_DEVICES), 20, N_DEVICES)
    counts = np.zeros(7)
    rng = np.random.default_rng(1)
    for turn in range(250):
        answers: list[Any] = []
        for i in range(N_DEVICES):
            draft = q.draw(rng.random())
            request = Request(
                turn, 0, prefix_hash([]), [*prompt, draft], [], [q],
                settings=Settings(sampler=plain, seed=turn * N_DEVICES + i, origin=len(prompt)),
            )  # fmt: skip

            def deliver(reply: Any, draft: int = draft, answers: list[Any] = answers) -> None:
                assert isinstance(reply, Reply)
                answers.append(draft if reply.accepted else reply.tokens[0])

            of.scheduler.submit(("o", f"{i:032x}"), request, deliver)
        while of.scheduler.step():
            pass
        assert len(answers) == N_DEVICES
        counts += np.bincount(answers, minlength=7)
    n = counts.sum()
    assert q.weights.sum() == TOTAL
    chi_square = float(((counts - n * p) ** 2 / (n * p)).sum())
    assert chi_square < 22.46  # 6 degrees of freedom, one in a thousand


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    params = ll.llama_model_quantize_default_params()
    params.ftype = ll.LLAMA_FTYPE_ALL_F32
    params.allow_requantize = True
    out: Path = tmp_path_factory.mktemp("floats") / "demo-llm.F32.gguf"
    source = str(shipped.path_of("demo-llm")).encode()
    assert ll.llama_model_quantize(source, str(out).encode(), params) == 0
    exact = EngineOptions(
        n_threads=1, n_threads_batch=1, flash_attention="off",
        cache_type_k="f32", cache_type_v="f32",
    )  # fmt: skip
    # Fewer places than sessions: some are parked and come back, and one beginning is shared.
    return load_service(out, VerifierOptions(engine=exact, sessions=4, quantum=0.0), Keys())


@pytest.mark.slow
def test_ids_of_calls_that_share_passes_are_those_of_calls_alone(service: Service) -> None:
    vocab = service.vocab
    start = "You are a friendly assistant who answers in short and simple sentences. " * 3
    texts = [f"{start}Question number {i}: what is {i} plus {i}? Answer:" for i in range(6)]
    prompts = [vocab.tokenize(text) for text in texts]

    def calls(turn: int, replies: list[list[int]]) -> Iterator[Request]:
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            ids = [*prompt, *reply]
            held = len(ids) if turn else 0
            settings = Settings(sampler=Sampler(temperature=0.8), seed=i, origin=len(prompt))
            yield Request(
                turn + 1, held, prefix_hash(ids[:held]), ids[held:], bonus=4,
                settings=None if turn else settings,
            )  # fmt: skip

    together: list[list[int]] = [[] for _ in prompts]
    alone: list[list[int]] = [[] for _ in prompts]
    verifier = service.verifier
    for turn in range(4):
        for i, request in enumerate(calls(turn, together)):

            def deliver(reply: Any, i: int = i) -> None:
                assert isinstance(reply, Reply), reply
                together[i].extend(reply.tokens)

            verifier.scheduler.submit(("together", f"{i:032x}"), request, deliver)
        while verifier.scheduler.step():
            pass
    for turn in range(4):
        for i, request in enumerate(calls(turn, alone)):
            reply = verifier.verify((f"alone {i}", f"{i:032x}"), request)
            assert isinstance(reply, Reply)
            alone[i].extend(reply.tokens)
    assert together == alone
    assert all(together)
    assert verifier.store.evictions > 0
