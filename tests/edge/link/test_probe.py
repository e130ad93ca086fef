"""Which kind of cloud a URL is, and what somebody is told who gave the other kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.chat.assemble import assemble
from uhlm_edge.edge.link.probe import kind_of
from uhlm_edge.wire.messages import Info, Limits

from .raw_server import RawServer, http

INFO = Info(model="llm", fingerprint=(9, "f"), end_ids=frozenset([1]), n_ctx=99, limits=Limits())
VERIFIER = http(200, INFO.model_dump_json().encode(), "application/json")
LISTING = http(200, json.dumps({"data": [{"id": "a"}, {"id": "b"}]}).encode())
NOTHING = http(404, b"{}")


def test_a_verifier_tells_by_its_info_and_an_endpoint_by_its_models() -> None:
    with RawServer([VERIFIER]) as server:
        assert kind_of(server.url) == "verifier"
        assert kind_of(f"{server.url}/prefix") == "verifier"
    with RawServer([NOTHING, LISTING]) as server:
        assert kind_of(server.url) == "openai"
        asked = [request.split(b" HTTP/")[0] for request in server.requests]
    assert asked == [b"GET /v1/info", b"GET /v1/models"]
    with RawServer([http(200, b"<html>")]) as server:
        assert kind_of(server.url) is None
    assert kind_of(server.url) is None  # it is gone


@pytest.mark.parametrize(
    ("strategy", "answers", "said"),
    [
        ("uhlm", [NOTHING, NOTHING, LISTING], "not a verifier: give --strategy handoff"),
        ("handoff", [NOTHING, VERIFIER], "is a verifier: use another strategy than handoff"),
        ("handoff", [LISTING], "name a model with --cloud-model"),
    ],
)
def test_a_url_of_the_other_kind_is_told_before_anything_is_written(
    strategy: str, answers: list[Any], said: str
) -> None:
    with RawServer(answers) as server:
        given: dict[Any, Any] = {("strategy", "name"): strategy, ("cloud", "url"): server.url}
        config = load_config(given, environment={}).config
        with pytest.raises(ConfigError, match=said), assemble(config, print, None, {}):
            pass
        assert all(request.startswith(b"GET ") for request in server.requests)


def test_an_endpoint_that_is_away_is_told_at_the_start_and_the_device_goes_on() -> None:
    with RawServer([NOTHING]) as server:
        pass
    said: list[str] = []
    given: dict[Any, Any] = {("strategy", "name"): "handoff", ("cloud", "url"): server.url}
    config = load_config(given, environment={}).config
    with assemble(config, said.append, None, {}) as assistant:
        assert assistant.handoff is not None
        assert assistant.handoff.endpoint is not None
    assert len(said) == 1
    assert "/v1 (Connection refused)" in said[0]
