"""The device's server as OpenAI's own client sees it."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.configs.layers import changed, load_config
from uhlm_edge.edge.api.server import serve

from .models import ASKED, PERU, demo
from .running import KEY, Running, as_command, in_thread


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with demo() as hybrid, in_thread(hybrid) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


def ask(client: openai.OpenAI, messages: Any = ASKED, **options: Any) -> Any:
    return client.chat.completions.create(model="demo-slm", messages=messages, **options)


def uhlm(**options: Any) -> dict[str, Any]:
    return {"extra_body": {"uhlm": options}}


def test_a_stream_and_a_whole_answer_are_the_same_reply(client: openai.OpenAI) -> None:
    whole = ask(client, seed=4)
    chunks = list(ask(client, seed=4, stream=True, stream_options={"include_usage": True}))
    *pieces, last = [chunk for chunk in chunks if chunk.choices]
    text = "".join(chunk.choices[0].delta.content for chunk in pieces)
    assert text == whole.choices[0].message.content != ""
    assert pieces[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage.completion_tokens == whole.usage.completion_tokens == len(pieces) - 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_every_token_tells_its_source_and_the_statistics_agree(client: openai.OpenAI) -> None:
    choice = ask(client, seed=4, **uhlm(strategy="hlm")).choices[0]
    tokens, stats = choice.uhlm["tokens"], choice.uhlm["stats"]
    assert "".join(token["text"] for token in tokens) == choice.message.content
    replaced = [token for token in tokens if token["provenance"] == "replaced"]
    assert len(replaced) == stats["rejected"] > 0
    assert all(token["draft"] != token["text"] for token in replaced)
    assert all(token["uploaded"] for token in tokens)
    assert choice.uhlm["offline_reason"] is None
    alone = ask(client, seed=4, **uhlm(strategy="local")).choices[0]
    assert {token["provenance"] for token in alone.uhlm["tokens"]} == {"device"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_stops_in_the_middle(client: openai.OpenAI, stream: bool) -> None:
    got = ask(client, PERU, stop=["al of"], stream=stream)
    choices = [chunk.choices[0] for chunk in got] if stream else [got.choices[0]]
    text = "".join((c.delta if stream else c.message).content or "" for c in choices)
    assert text == "The capit"
    assert choices[-1].finish_reason == "stop"


def test_a_limit_of_tokens_is_a_length(client: openai.OpenAI) -> None:
    for options in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        got = ask(client, PERU, **options)
        assert (got.usage.completion_tokens, got.choices[0].finish_reason) == (3, "length")


def test_logprobs_are_those_of_the_distribution_that_was_sampled(client: openai.OpenAI) -> None:
    got = ask(client, PERU, logprobs=True, top_logprobs=3, temperature=1.5).choices[0]
    content = got.logprobs.content
    assert "".join(each.token for each in content) == got.message.content
    for each in content:
        assert bytes(each.bytes).decode() == each.token
        tops = [top.logprob for top in each.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert 1 <= len(tops) <= 3
        assert each.logprob <= max(tops) <= 0.0
    greedy = ask(client, PERU, logprobs=True, temperature=0).choices[0].logprobs.content
    assert {each.logprob for each in greedy} == {0.0}


CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "people": {"type": "integer"},
        "size": {"enum": ["small", "large"]},
    },
    "required": ["city", "people", "size"],
    "additionalProperties": False,
}


def bound(kind: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    of = {} if schema is None else {"json_schema": {"name": "city", "schema": schema}}
    return {"response_format": {"type": kind, **of}}


def test_a_reply_obeys_a_json_schema(client: openai.OpenAI) -> None:
    for seed in range(5):
        choice = ask(
            client, PERU, seed=seed, logprobs=True, top_logprobs=2, max_tokens=100,
            **bound("json_schema", CITY), **uhlm(strategy="local"),
        ).choices[0]  # fmt: skip
        assert choice.finish_reason == "stop"
        said = json.loads(choice.message.content)
        assert list(said) == CITY["required"]
        assert isinstance(said["people"], int)
        assert said["size"] in ("small", "large")
        assert len(said["city"]) <= 12
        first = choice.logprobs.content[0]  # of what was drawn from: nothing else could begin it
        assert all(top.token.startswith("{") for top in first.top_logprobs)


def test_a_reply_is_a_json_object_as_far_as_its_length_goes(client: openai.OpenAI) -> None:
    choice = ask(
        client, PERU, seed=1, max_tokens=4, **bound("json_object"), **uhlm(strategy="local")
    ).choices[0]
    assert choice.message.content.startswith("{")
    assert choice.finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_matches_a_grammar(client: openai.OpenAI, stream: bool) -> None:
    more = {"extra_body": {"grammar": 'root ::= "no" "!"{2}', "uhlm": {"strategy": "local"}}}
    got = ask(client, PERU, stream=stream, **more)
    choices = [chunk.choices[0] for chunk in got] if stream else [got.choices[0]]
    text = "".join((c.delta if stream else c.message).content or "" for c in choices)
    assert text == "no!!"
    assert choices[-1].finish_reason == "stop"
    rest = client.completions.create(model="demo-slm", prompt="The capital", **more)  # type: ignore[call-overload]
    assert rest.choices[0].text == "no!!"


def test_two_at_once_both_get_their_answer(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda _: ask(client, PERU), range(2)))
    assert [each.choices[0].message.content for each in got] == ["The capital of Peru is Lima."] * 2


def test_the_second_turn_needs_no_prefill_of_the_first(client: openai.OpenAI) -> None:
    first = ask(client, PERU)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    second = ask(client, [*PERU, said, {"role": "user", "content": "And of Chile?"}])
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached == first.usage.total_tokens - 1  # all but the end of the reply was read


def test_a_text_is_gone_on_with_as_it_is(client: openai.OpenAI) -> None:
    got = client.completions.create(
        model="demo-slm", prompt="The capital of Peru is", temperature=0, logprobs=2
    )
    assert got.choices[0].text.startswith(" Lima")
    assert got.choices[0].logprobs is not None
    assert got.choices[0].logprobs.text_offset is not None
    assert got.choices[0].logprobs.text_offset[:2] == [0, 5]


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo-slm"]
    assert client.models.retrieve("demo-slm").owned_by == "uhlm-edge"


@pytest.mark.parametrize(
    ("options", "status", "param", "told"),
    [
        ({"n": 2}, 400, "n", "n must be 1"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "leave it"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "not supported"),
        ({"temperature": -1}, 400, "temperature", "must be at least 0"),
        ({"max_tokens": 0}, 400, "max_tokens", "must be at least 1"),
        ({"response_format": {"type": "json_object"}}, 400, "grammar", "use strategy local"),
        ({"response_format": {"type": "yaml"}}, 400, "response_format", "json_object"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", "needs a json"),
        ({"extra_body": {"grammar": "root ::= ("}}, 400, "grammar", "expecting"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"$ref": "https://192.0.2.1/x"}},
                }
            },
            400,
            "response_format",
            "remote",
        ),
        ({"top_logprobs": 2}, 400, "top_logprobs", "logprobs"),
        ({"model": "gpt-4"}, 404, "model", "demo-slm"),
        ({"messages": []}, 400, "messages", "messages must not be empty"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages", "role must be system"),
        ({"stop": 5}, 400, "stop", "stop must be text, or a list of texts"),
        ({"seed": "x"}, 400, "seed", "seed must be a whole number"),
        ({"stream_options": {"x": 1}}, 400, "stream_options", "x is not supported"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, 400, "messages", "shorten"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages",
            "parts of type text",
        ),
        ({"extra_body": {"uhlm": {"model": "x"}}}, 400, "uhlm", "strategy"),
        ({"extra_body": {"uhlm": {"strategy": "x"}}}, 400, "strategy", "must be local, cloud,"),
        ({"extra_body": {"colour": "red"}}, 400, "colour", "not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], status: int, param: str, told: str
) -> None:
    given: Any = {"model": "demo-slm", "messages": PERU, **options}
    with pytest.raises(openai.APIStatusError, match=told) as caught:
        client.chat.completions.create(**given)
    error = caught.value
    assert (error.status_code, error.param) == (status, param)
    assert error.type == "invalid_request_error"
    if told == "shorten":
        assert error.code == "context_length_exceeded"


def test_fields_that_say_nothing_are_fine(client: openai.OpenAI) -> None:
    got = ask(client, PERU, n=1, frequency_penalty=0, user="me", tools=[], logit_bias={})
    assert got.choices[0].message.content


def test_a_wrong_key_is_refused(server: Running) -> None:
    with server.client("wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        ask(client, PERU)
    assert caught.value.code == "invalid_api_key"


def raw(server: Running, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    given = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in given.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "headers"),
    [
        (415, "POST", "/v1/chat/completions", "{}", {"content_type": "text/plain"}),
        (403, "GET", "/v1/models", "", {"host": "evil.example"}),
        (400, "POST", "/v1/chat/completions", "[" * 5000, {}),
        (400, "POST", "/v1/chat/completions", "[]", {}),
        (404, "GET", "/v1/nothing", "", {}),
        (405, "GET", "/v1/chat/completions", "", {}),
        (401, "GET", "/metrics", "", {"authorization": ""}),
    ],
)
def test_a_request_that_is_none_gets_an_error_in_openai_s_form(
    server: Running, status: int, method: str, path: str, body: str, headers: dict[str, str]
) -> None:
    got, text = raw(server, method, path, body, **headers)
    assert got == status
    assert json.loads(text)["error"]["message"]


def test_health_is_open_and_info_says_what_kind_of_server_this_is(server: Running) -> None:
    assert raw(server, "GET", "/health", authorization="") == (200, '{"status":"ok"}')
    told = json.loads(raw(server, "GET", "/v1/info")[1])
    assert (told["kind"], told["model"]) == ("openai", "demo-slm")
    assert "uhlm" in told["strategies"]


def metrics(server: Running) -> str:
    return raw(server, "GET", "/metrics")[1]


def counted(server: Running, name: str) -> int:
    text = metrics(server)
    found = re.search(rf"^uhlm_serve_{re.escape(name)} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def until(server: Running, name: str, value: int) -> None:
    while counted(server, name) < value:
        pass


def test_a_client_that_goes_away_frees_the_device_and_nothing_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story: Any = [{"role": "user", "content": "Tell me a story."}]
    with demo(alone=True) as hybrid, in_thread(hybrid) as server, server.client() as client:
        free = hybrid._busy
        with ask(client, story, stream=True, max_tokens=900, temperature=50.0) as stream:
            next(iter(stream))
            assert free.locked()
        until(server, 'requests_total{outcome="left"}', 1)
        assert ask(client, PERU).choices[0].message.content
        assert counted(server, 'tokens_total{provenance="device"}') < 900
    assert not [record for record in caplog.records if record.name == "uhlm_edge.serve"]


def test_too_many_at_once_are_told_to_come_again() -> None:
    with demo(alone=True) as hybrid, in_thread(hybrid, queue=1) as server:
        with server.client() as client, ThreadPoolExecutor(2) as pool:
            with hybrid._busy:  # as if another reply took long
                first = pool.submit(ask, client, PERU)
                until(server, "busy", 1)
                second = pool.submit(ask, client, PERU)
                until(server, "waiting", 1)
                with pytest.raises(openai.RateLimitError, match="later"):
                    ask(client, PERU)
            assert first.result().choices[0].message.content
            assert second.result().choices[0].message.content
        assert counted(server, 'requests_total{outcome="busy"}') == 1


def test_a_choice_and_the_metrics_tell_what_is_spent_of_the_budget() -> None:
    caps = {"reply": {"uploads": 2}, "session": {"bytes": 100_000}}
    with (
        demo(budget=caps, strategy="hlm") as hybrid,
        in_thread(hybrid) as server,
        server.client() as client,
    ):
        told = ask(client, PERU).choices[0].uhlm
        assert told["budget"]["reply"]["uploads"] == {"spent": 2, "cap": 2}
        assert "budget" in told["offline_reason"]
        spent = told["budget"]["session"]["bytes"]["spent"]
        assert f'budget_spent{{span="session",of="bytes"}} {spent}\n' in metrics(server)
        assert 'budget_cap{span="session",of="bytes"} 100000\n' in metrics(server)
        streamed = [chunk.choices[0] for chunk in ask(client, PERU, stream=True)]
        last = streamed[-1].uhlm["budget"]  # whether it asked again depends on how soon it came
        assert last["session"]["uploads"]["spent"] == 2 + last["reply"]["uploads"]["spent"]
    with demo(alone=True) as hybrid:
        assert hybrid.generate(PERU).read().budget is None


def test_another_address_than_loopback_wants_a_key() -> None:
    demo_pair = load_config({}, "demo", environment={}).config
    config = changed(demo_pair, {("serve", "host"): "192.0.2.1"})
    with pytest.raises(ConfigError, match="UHLM_SERVE_KEY"):
        serve(config, environment={})


@pytest.mark.slow
def test_the_command_serves_and_stops(tmp_path: Path) -> None:
    with (
        as_command(tmp_path, "--offline", "--seed", "1", UHLM_SERVE_KEY=KEY) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client,
    ):
        assert ask(client, PERU).choices[0].message.content == "The capital of Peru is Lima."
