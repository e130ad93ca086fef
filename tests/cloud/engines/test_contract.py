"""One contract for every engine: rows, rollback, sequences, room, and the exact distribution.

llama.cpp runs for real, with the shipped LLM. vLLM and SGLang are servers that answer as they do;
`make test-vllm` runs vLLM for real too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from uhlm_edge.cloud.engines.context import UpstreamContext
from uhlm_edge.cloud.engines.http import JsonClient
from uhlm_edge.cloud.engines.protocol import Upstream
from uhlm_edge.cloud.engines.sglang import SglangUpstream
from uhlm_edge.cloud.engines.vllm import VllmUpstream
from uhlm_edge.common.errors import ContextFull, EngineError
from uhlm_edge.lm.engines.llama import LlamaContext
from uhlm_edge.lm.engines.llama_model import LlamaModel
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.lm.engines.protocol import Context, Logits, Work
from uhlm_edge.lm.row import Row
from uhlm_edge.lm.sampling import TOTAL, Sampler
from uhlm_edge.models import shipped

from ...fakes import CLOUD, DEVICE
from . import servers
from .real import RealVllm

TOP = 20
CELLS, SEQUENCES = 256, 4  # llama.cpp rounds cells up to this
UPSTREAMS: dict[str, Callable[[JsonClient, int], Upstream]] = {
    "vllm": VllmUpstream,
    "sglang": SglangUpstream,
}
SAMPLERS = [
    Sampler(temperature=0.0),
    Sampler(temperature=1.0, top_k=TOP, top_p=1.0),
    Sampler(temperature=0.6, top_k=5, top_p=0.95),
    Sampler(temperature=1.7, top_k=TOP, top_p=0.8, min_p=0.05),
]


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaModel]:
    options = EngineOptions(n_threads=1, n_threads_batch=1)
    model = LlamaModel(shipped.path_of("demo-llm"), options)
    yield model
    model.close()


REAL = pytest.param("real vllm", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])


@pytest.fixture(params=["llama", "vllm", "sglang", REAL])
def context(request: pytest.FixtureRequest) -> Iterator[Context]:
    if request.param == "llama":
        options = EngineOptions(n_threads=1, n_threads_batch=1)
        model = request.getfixturevalue("llama")
        made = LlamaContext(model, options, CELLS, SEQUENCES)
        yield made
        made.close()
    elif request.param == "real vllm":
        real: RealVllm = request.getfixturevalue("real_vllm")
        upstream = UPSTREAMS["vllm"](JsonClient(real.url, servers.KEY), TOP)
        vocab = request.getfixturevalue("llama").vocab
        context = UpstreamContext(upstream, vocab, CELLS, SEQUENCES)
        yield context
        context.close()
    else:
        with servers.engine(request.param) as engine:
            upstream = UPSTREAMS[request.param](JsonClient(engine.url, servers.KEY), TOP)
            context = UpstreamContext(upstream, CLOUD.vocab, CELLS, SEQUENCES)
            yield context
            context.close()


def probs_of(rows: Logits, sampler: Sampler) -> list[NDArray[np.float64]]:
    return [sampler.probs(Row(row)) for row in rows]


def close(a: Logits, b: Logits, sampler: Sampler = SAMPLERS[1]) -> bool:
    """The same distributions, as far as block widths of quantised kernels allow."""
    pairs = zip(probs_of(a, sampler), probs_of(b, sampler), strict=True)
    return all(np.abs(p - q).sum() < 0.2 for p, q in pairs)


TEXT = [104, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100]


def test_rows_are_those_of_the_last_ids_however_the_text_came(context: Context) -> None:
    whole = [row.copy() for row in context.decode([Work(0, TEXT, 4)])[0]]
    context.decode([Work(1, TEXT[:6], 0)])
    (part,) = context.decode([Work(1, TEXT[6:], 4)])
    assert part.shape == (4, len(context.vocab))
    assert close(np.array(whole), part)
    assert context.length(0) == context.length(1) == len(TEXT)


def test_after_a_rollback_the_rows_are_those_of_the_new_text(context: Context) -> None:
    context.decode([Work(0, TEXT, 1)])
    context.truncate(5, 0)
    rolled = context.decode([Work(0, TEXT[:3], 2)])[0].copy()
    (fresh,) = context.decode([Work(1, TEXT[:5] + TEXT[:3], 2)])
    assert close(rolled, fresh)
    assert context.length(0) == 8


def test_sequences_in_one_pass_do_not_see_each_other(context: Context) -> None:
    a, none, b = context.decode([Work(0, TEXT, 2), Work(1, TEXT[:4], 0), Work(2, TEXT[2:9], 1)])
    a, b = a.copy(), b.copy()
    assert none.shape[0] == 0
    for text, rows, got in ((TEXT, 2, a), (TEXT[2:9], 1, b)):
        context.truncate(0, 3)
        assert close(context.decode([Work(3, text, rows)])[0], got)


def test_what_does_not_fit_changes_nothing(context: Context) -> None:
    context.decode([Work(0, TEXT, 1)])
    with pytest.raises(ContextFull):
        context.decode([Work(1, TEXT * 23, 1)])
    assert context.length(0) == len(TEXT)
    assert context.length(1) == 0
    context.decode([Work(1, TEXT, 1)])


@pytest.mark.parametrize("kind", UPSTREAMS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_the_distribution_within_the_top_k_is_the_models_own(kind: str, sampler: Sampler) -> None:
    with servers.engine(kind) as engine:
        upstream = UPSTREAMS[kind](JsonClient(engine.url, servers.KEY), TOP)
        context = UpstreamContext(upstream, CLOUD.vocab, CELLS, SEQUENCES)
        for start in range(6):
            text = TEXT[start:] + TEXT[:start]
            context.truncate(0, 0)
            (rows,) = context.decode([Work(0, text, 5)])
            for got, true in zip(rows, CLOUD.rows(text, 5), strict=True):
                np.testing.assert_allclose(
                    sampler.probs(Row(got)), sampler.probs(Row(true)), atol=2e-6
                )
        context.close()


@pytest.mark.parametrize("kind", UPSTREAMS)
def test_a_settled_token_follows_the_model_whatever_the_device_draws_from(kind: str) -> None:
    """By enumeration over all drafts: acceptance, and the residual of what is told."""
    sampler = SAMPLERS[1]
    with servers.engine(kind) as engine:
        upstream = UPSTREAMS[kind](JsonClient(engine.url, servers.KEY), TOP)
        context = UpstreamContext(upstream, CLOUD.vocab, CELLS, SEQUENCES)
        (rows,) = context.decode([Work(0, TEXT, 1)])
        context.close()
    told, true = sampler.probs(Row(rows[0])), sampler.probs(Row(CLOUD.row(TEXT)))
    drawn = sampler.distribution(Row(DEVICE.row(TEXT)))
    q = drawn.probs(len(true))
    assert drawn.weights.sum() == TOTAL
    kept = np.minimum(q, told)
    rest = np.maximum(told - q, 0.0)
    settled = kept + (1.0 - kept.sum()) * rest / rest.sum()
    np.testing.assert_allclose(settled, true, atol=3e-6)
    assert 0.05 < kept.sum() < 0.95  # both ways were taken


def test_vllm_reads_a_text_again_only_where_it_is_short() -> None:
    long = TEXT * 4
    with servers.engine("vllm") as engine:
        upstream = VllmUpstream(JsonClient(engine.url, servers.KEY), TOP)
        upstream.rows(TEXT, 1)
        again = upstream.rows(long, 3)
        apart = upstream.rows(long, 2)
    assert ["prompt_logprobs" in body for body in engine.asked] == [True, False, True, False]
    assert engine.asked[-1]["prompt"] == [long[:-1], long]
    for a, b in zip(again[1:], apart, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.log_probs, b.log_probs)


def test_sglang_is_asked_from_the_first_row_on() -> None:
    with servers.engine("sglang") as engine:
        upstream = SglangUpstream(JsonClient(engine.url, servers.KEY), TOP)
        upstream.rows(TEXT, 1)
        upstream.rows(TEXT, 3)
    starts = [body["logprob_start_len"] for body in engine.asked]
    assert starts == [0, -1, len(TEXT) - 3]


def test_ids_without_a_row_cost_no_question() -> None:
    with servers.engine("vllm") as engine:
        upstream = VllmUpstream(JsonClient(engine.url, servers.KEY), TOP)
        context = UpstreamContext(upstream, CLOUD.vocab, CELLS, SEQUENCES)
        context.decode([Work(0, TEXT, 0)])
        assert len(engine.asked) == 1  # the one at the start
        context.share(0, 1, 6)
        context.load(2, context.save(0), len(TEXT))
        rows = context.decode([Work(1, TEXT[6:], 1), Work(2, TEXT[:1], 1)])
        assert close(rows[0], CLOUD.rows(TEXT, 1))
        assert close(rows[1], CLOUD.rows(TEXT + TEXT[:1], 1))
        context.close()


def test_a_failed_pass_leaves_every_sequence_as_it_was() -> None:
    with servers.engine("sglang") as engine:
        upstream = SglangUpstream(JsonClient(engine.url, servers.KEY), TOP)
        context = UpstreamContext(upstream, CLOUD.vocab, CELLS, SEQUENCES)
        context.decode([Work(0, TEXT, 1)])
        with pytest.raises(EngineError, match="longer than the model's context"):
            context.decode([Work(0, TEXT, 1), Work(1, TEXT * 6, 1)])
        assert (context.length(0), context.length(1)) == (len(TEXT), 0)
        context.close()
