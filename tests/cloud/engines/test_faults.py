"""What an engine does wrong is an error with one line that says so, never an answer."""

from __future__ import annotations

import socket

import pytest

from uhlm_edge.cloud.engines.context import UpstreamContext
from uhlm_edge.cloud.engines.http import JsonClient
from uhlm_edge.cloud.engines.sglang import SglangUpstream
from uhlm_edge.cloud.engines.vllm import VllmUpstream
from uhlm_edge.common.errors import ConfigError, EngineError, ModelError
from uhlm_edge.lm.engines.protocol import Work

from ...commands import web_server
from ...fakes import CLOUD, FakeVocabulary
from . import servers

TEXT = [104, 101, 108, 108, 111]


def test_too_few_log_probabilities_are_refused_at_the_start_with_the_way_out() -> None:
    with (
        servers.engine("vllm") as engine,
        pytest.raises(ModelError, match=r"--max-logprobs 40.*greater than max allowed: 20"),
    ):
        VllmUpstream(JsonClient(engine.url, servers.KEY), 40)


def test_a_model_that_is_not_served_and_a_wrong_key_are_said() -> None:
    with servers.engine("vllm") as engine:
        with pytest.raises(ModelError, match="does not serve other: it has fake-llm"):
            VllmUpstream(JsonClient(engine.url, servers.KEY), 20, "other")
        with pytest.raises(EngineError, match="HTTP 401: Unauthorized"):
            VllmUpstream(JsonClient(engine.url, "sk-wrong"), 20)


@pytest.mark.parametrize(
    "broken",
    [
        {"choices": []},
        {"choices": [{"logprobs": None, "prompt_logprobs": None}]},
        {"choices": [{"logprobs": {"top_logprobs": [{"hello": -1.0}]}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{}]}}]},
        {"meta_info": None},
        {"meta_info": {"output_top_logprobs": [[]]}},
        {"meta_info": {"output_top_logprobs": [[[-1.0]]]}},
        {"meta_info": {"output_top_logprobs": []}},
    ],
)
def test_an_answer_of_another_shape_is_refused(broken: dict[str, object]) -> None:
    kind = "vllm" if "choices" in broken else "sglang"
    made = VllmUpstream if kind == "vllm" else SglangUpstream
    with servers.engine(kind) as engine:
        upstream = made(JsonClient(engine.url, servers.KEY), 20)
        engine.broken = broken
        with pytest.raises(EngineError, match=r"answers not as|tells 0 positions"):
            upstream.rows(TEXT, 1)
        engine.broken = None
        assert len(upstream.rows(TEXT, 1)) == 1


def test_ids_outside_the_vocabulary_are_refused() -> None:
    small = FakeVocabulary(5)
    with servers.engine("sglang") as engine:
        upstream = SglangUpstream(JsonClient(engine.url, servers.KEY), 20)
        context = UpstreamContext(upstream, small, 64, 1)
        with pytest.raises(EngineError, match="the same model"):
            context.decode([Work(0, [1, 2], 1)])
        assert context.length(0) == 0
        context.close()
    assert len(CLOUD.vocab) > 5


def test_no_engine_no_json_and_no_url() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EngineError, match=r"does not answer \(Connection refused\)"):
            VllmUpstream(JsonClient(url), 20)
    with web_server(200) as url, pytest.raises(EngineError, match="no JSON object"):
        SglangUpstream(JsonClient(url), 20)
    with pytest.raises(ConfigError, match="no URL"):
        JsonClient("localhost:8000")
