"""The command line: what a user can do wrong ends in one line and the right exit code."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from .commands import (
    DEVICE_MODEL,
    Result,
    run_here,
    verifier,
    web_server,
    with_another_vocabulary,
)

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path) -> Invoke:
    """Run `uhlm-edge` in this process, with an empty home."""

    def call(*arguments: str, stdin: bytes = b"", **more: str) -> Result:
        return run_here(arguments, tmp_path, stdin, more)

    return call


def refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr with all the words in it, and nothing on stdout."""
    assert result.out == ""
    assert result.err.startswith("uhlm-edge: ")
    assert result.err.count("\n") == 1, result.err
    assert result.code == code
    for word in words:
        assert word in result.err


# What works


def test_stdin_is_a_prompt_and_stdout_the_answer_alone(invoke: Invoke) -> None:
    result = invoke("run", "-", "--offline", "--seed", "1", stdin=b"What is the capital of Peru?\n")
    assert result == Result(0, "The capital of Peru is Lima.\n", "")


def test_data_from_a_pipe_is_the_prompt_or_its_context(invoke: Invoke) -> None:
    alone = invoke("run", "--offline", "--seed", "1", stdin=b"What is the capital of Peru?\n")
    assert alone.out == "The capital of Peru is Lima.\n"
    both = invoke("run", "What is this?", "--offline", "--seed", "1", stdin=b"Peru\nLima\n")
    joined = invoke("run", "What is this?\n\nPeru\nLima", "--offline", "--seed", "1")
    assert both.out == joined.out != ""


def test_a_reply_that_was_cut_says_so(invoke: Invoke) -> None:
    asked = ["run", "What is the capital of Peru?", "--offline", "--seed", "1"]
    for n, cut in (("3", "3 tokens"), ("1", "1 token")):
        told = f"cut off at {cut}; give --max-tokens N for more"
        assert told in invoke(*asked, "--max-tokens", n).err
    reasons = []
    for limit in ("3", "64"):
        done = invoke(*asked, "--json", "--max-tokens", limit).out.splitlines()[-1]
        reasons.append(json.loads(done)["finish_reason"])
    assert reasons == ["length", "stop"]


def test_the_same_seed_gives_the_same_text(invoke: Invoke) -> None:
    asked = ["run", "I would like to eat out.", "--offline", "--temperature", "1.5", "--seed"]
    first, again, other = (invoke(*asked, seed).out for seed in ("7", "7", "8"))
    assert first == again != other


def test_json_has_a_line_per_token_and_one_at_the_end(invoke: Invoke) -> None:
    result = invoke("run", "Hello!", "--offline", "--json", "--seed", "3")
    *lines, done = (json.loads(line) for line in result.out.splitlines())
    assert [line["event"] for line in lines] == ["token"] * len(lines)
    assert [line["index"] for line in lines] == list(range(len(lines)))
    assert {line["v"] for line in [*lines, done]} == {1}
    assert done["event"] == "done"
    assert done["text"] == "".join(line["text"] for line in lines)
    assert done["stats"]["tokens"] == len(lines)
    assert done["stats"]["uploads"] == done["stats"]["uplink_bytes"] == 0
    assert done["stats"]["strategy"] == "uhlm"
    assert result.err == ""


def test_each_line_of_stdin_is_a_turn(invoke: Invoke) -> None:
    result = invoke("chat", "--offline", "--seed", "1", stdin=b"Hello!\n\nWhat is 2 plus 3?\n")
    assert len(result.out.splitlines()) == 2
    assert result.err.count("> ") == 2
    assert result.code == 0


def test_a_name_that_is_no_model_is_told_in_one_line(invoke: Invoke) -> None:
    assert invoke("pull", "nope").err.count("\n") == 1


def test_with_nothing_on_stdin_the_samples_are_played(invoke: Invoke) -> None:
    result = invoke("chat", "--offline")
    assert result.err.count("\n> ") + result.err.startswith("> ") == 3
    assert len(result.out.splitlines()) == 3


def test_a_turn_that_is_no_utf8_is_left_out_and_the_rest_answered(invoke: Invoke) -> None:
    result = invoke("chat", "--offline", stdin=b"Hello!\n\xff\xfe\nThank you!\n")
    assert len(result.out.splitlines()) == 2
    assert len(result.complaints) == 1
    assert "not UTF-8" in result.err
    nothing_else = invoke("chat", "--offline", stdin=b"\xff\xfe\n")
    assert (nothing_else.out, len(nothing_else.complaints)) == ("", 1)


def test_verbose_says_what_took_the_layers(invoke: Invoke) -> None:
    result = invoke("run", "Hello!", "--offline", "--verbose", "--max-tokens", "2")
    assert any("CPU" in line for line in result.complaints)


def test_config_show_says_where_each_value_came_from(invoke: Invoke) -> None:
    result = invoke("config", "show", UHLM_CHAT_SEED="5")
    assert "chat.seed = 5  # environment\n" in result.out
    assert "cloud.demo = True  # profile demo\n" in result.out
    assert result.code == 0


def test_a_long_conversation_keeps_the_system_message_and_the_newest_turns(
    invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text("device.engine.n_ctx = 128\n", "utf-8")
    turns = b"".join(b"What is the capital of Peru? Tell me, please.\n" for _ in range(12))
    result = invoke(
        "chat", "--offline", "--config", str(tmp_path / "small.toml"), "--system", "Be brief.",
        "--max-tokens", "20", stdin=turns,
    )  # fmt: skip
    assert result.code == 0
    assert len(result.out.splitlines()) == 12
    assert "longer than the context of 128 tokens: the oldest 2 messages are left out" in result.err


# Usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", ""], ["the prompt is empty"]),
        (["run", "  \n"], ["the prompt is empty"]),
        (["run", "hi", "--profile", "dmeo"], ["no profile named 'dmeo'", "demo"]),
        (["run", "hi", "--strategy", "hml"], ["'hml'", " hlm, "]),
        (
            ["run", "hi", "--threshold", "high"],
            ["'high'", "must be a number, averse, prone, risk or adaptive\n"],
        ),
        (["run", "hi", "--temperature", "-1"], ["sampler.temperature", "must be at least 0.0\n"]),
        (["run", "hi", "--config", "nowhere.toml"], ["nowhere.toml", "No such file"]),
        (["run", "hi", "--draft-limit", "65"], ["draft_limit", "must be at most 64"]),
        (["run", "hi", "--draft-limit", "no"], ["must be a whole number or auto\n"]),
        (["run", "hi", "--cloud", "verifier"], ["not a verifier URL: write https://host:8787\n"]),
        (["run", "hi", "--cloud", "ftp://example.org"], ["not a verifier URL"]),
        (["run", "hi", "--offline", "--calibration", "nosuch"], ["nosuch"]),
        (["cloud", "--key-file", "nowhere"], ["key file nowhere not found\n"]),
        (["run", "hi", "--pair", "qwen"], ["no pair named 'qwen'", "qwen2.5"]),
        (["run", "hi", "--cloud", "http://example.org/api?a=b"], ["without query"]),
        (["run", "hi", "--cloud", "http://u:secret@example.org"], ["without query and user"]),
        (["cloud", "--host", "0.0.0.0"], ["wants a key", "UHLM_API_KEY"]),  # noqa: S104
        (["cloud", "--port", "65536"], ["verifier.port"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_wrong_usage_is_exit_2(invoke: Invoke, arguments: list[str], words: list[str]) -> None:
    refused(invoke(*arguments), 2, *words)


def test_an_empty_stdin_is_an_empty_prompt(invoke: Invoke) -> None:
    refused(invoke("run", "-", stdin=b"\n"), 2, "the prompt is empty")


def test_a_stdin_that_is_no_utf8_says_where(invoke: Invoke) -> None:
    refused(invoke("run", "-", stdin=b"abc\xff"), 2, "stdin is not UTF-8 (byte 4)")


def test_an_unknown_key_in_a_config_file_names_what_was_meant(
    invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[cloud]\nurll = 'http://127.0.0.1:1'\n", "utf-8")
    refused(invoke("run", "hi", "--config", str(file)), 2, "cloud.urll", "did you mean cloud.url?")


def test_an_unknown_variable_is_told_with_what_was_meant_and_stops_nothing(invoke: Invoke) -> None:
    result = invoke("run", "Hello!", "--offline", UHLM_CHAT_SED="1", UHLM_CHAT_SEED="")
    assert result.code == 0
    assert result.out
    assert result.err.count("\n") == 1
    assert "unknown key UHLM_CHAT_SED (environment); did you mean UHLM_CHAT_SEED?" in result.err


def test_a_wrong_url_in_a_config_file_is_refused_by_config_show(
    invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[cloud]\nurl = 'foo'\n", "utf-8")
    result = invoke("config", "show", "--config", str(file))
    refused(result, 2, "cloud.url = 'foo'", "not a verifier URL: write https://host:8787")


@pytest.mark.parametrize("profile", ["pi4", "pi5", "jetson-orin", "paper"])
def test_a_profile_without_models_says_what_it_lacks(invoke: Invoke, profile: str) -> None:
    result = invoke("run", "Hello!", "--offline", "--profile", profile, "--gpu-layers", "0")
    assert result.code == 0
    assert f"profile {profile} names no models" in result.err
    assert "--pair" in result.err
    told = invoke(
        "run", "Hello!", "--offline", "--profile", profile, "--gpu-layers", "0", "--model",
        str(DEVICE_MODEL),
    )  # fmt: skip
    assert "names no models" not in told.err


def test_a_prompt_longer_than_the_context_says_by_how_much(invoke: Invoke) -> None:
    refused(invoke("run", "word " * 3000, "--offline"), 2, "context", "1024")


def test_a_prompt_longer_than_any_context_is_wrong_usage(invoke: Invoke) -> None:
    refused(invoke("run", "-", "--offline", stdin=b"a" * 5_000_000), 2, "5,000,000", "shorten")


def test_a_key_is_never_sent_over_plain_http(invoke: Invoke) -> None:
    result = invoke("run", "hi", "--cloud", "http://192.0.2.1:8787", UHLM_API_KEY="canary-key-5")
    refused(result, 2, "https://192.0.2.1:8787")
    assert "canary" not in result.err


def test_a_key_file_that_others_can_read_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    key_file = tmp_path / "keys"
    key_file.write_text("canary-key-6\n", "utf-8")
    key_file.chmod(0o644)
    result = invoke("cloud", "--key-file", str(key_file))
    refused(result, 2, "chmod 600")
    assert "canary" not in result.err


# Models


@pytest.fixture
def bad_model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    match request.param:
        case "missing":
            pass
        case "empty":
            path.write_bytes(b"")
        case "a folder":
            path.mkdir()
        case "no GGUF":
            path.write_bytes(b"PK\x03\x04" + bytes(5000))
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n" * 9, "utf-8")
        case share:
            path.write_bytes(DEVICE_MODEL.read_bytes()[: int(3_384_672 * float(share))])
    return path


BAD_MODELS = ["missing", "empty", "a folder", "no GGUF", "text", "0.0001", "0.01", "0.5", "0.999"]


@pytest.mark.parametrize("bad_model", BAD_MODELS, indirect=True)
@pytest.mark.parametrize("command", [["run", "hi", "--offline"], ["cloud", "--port", "0"]])
def test_a_model_file_that_is_none_is_exit_3(
    invoke: Invoke, bad_model: Path, command: list[str]
) -> None:
    refused(invoke(*command, "--model", str(bad_model)), 3, str(bad_model))


@pytest.mark.slow
def test_a_pair_with_two_vocabularies_is_refused_by_name(invoke: Invoke, tmp_path: Path) -> None:
    model = with_another_vocabulary(tmp_path / "other-slm.gguf")
    with verifier(tmp_path) as running:
        result = invoke("run", "hi", "--model", str(model), "--cloud", running.url)
    refused(result, 3, "other-slm", "demo-llm", "do not share a vocabulary")


# Verifiers


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


WRONG_SERVERS = {
    "a page": (200, b"<html>hello</html>", "is no verifier"),
    "other JSON": (200, b"{}", "is no verifier"),
    "nothing there": (404, b"not found", "is this a verifier?"),
    "a refused key": (401, b"{}", "set UHLM_API_KEY"),
    "a redirect": (302, b"", "redirects elsewhere"),
    "a failure": (500, b"oops", "HTTP 500"),
}


@pytest.mark.parametrize("server", WRONG_SERVERS)
def test_a_server_that_is_no_verifier_is_told_once_and_the_device_answers(
    invoke: Invoke, server: str
) -> None:
    status, body, words = WRONG_SERVERS[server]
    asked = ["run", "What is the capital of Peru?", "--seed", "1", "--strategy", "hlm"]
    with web_server(status, body) as url:
        result = invoke(*asked, "--cloud", url)
    assert result.out == "The capital of Peru is Lima.\n"
    assert result.code == 0
    assert len(result.complaints) == result.err.count("\n") == 1, result.err
    assert words in result.err
    assert url in result.err


@pytest.mark.parametrize("server", WRONG_SERVERS)
def test_a_server_that_is_no_verifier_is_exit_4_where_one_is_required(
    invoke: Invoke, server: str
) -> None:
    status, body, words = WRONG_SERVERS[server]
    with web_server(status, body) as url:
        refused(invoke("run", "hi", "--cloud", url, "--require-cloud"), 4, words, url)


def test_an_unreachable_verifier_is_told_once_and_the_device_answers(invoke: Invoke) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    result = invoke("run", "Hello!", "--cloud", url, "--strategy", "hlm", "--seed", "1")
    assert result.out == invoke("run", "Hello!", "--offline", "--seed", "1").out != ""
    assert len(result.complaints) == 1
    assert url in result.err
    assert result.code == 0


def test_an_unreachable_verifier_is_exit_4_where_one_is_required(invoke: Invoke) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    refused(invoke("run", "hi", "--cloud", url, "--require-cloud"), 4, url)


def test_a_verifier_cannot_be_required_offline(invoke: Invoke) -> None:
    refused(invoke("run", "hi", "--offline", "--require-cloud"), 4, "--offline")


def test_what_a_server_says_cannot_steer_the_terminal(invoke: Invoke) -> None:
    body = json.dumps({"error": {"message": "\x1b[2J\n\u202eoops"}}).encode()
    with web_server(418, body) as url:
        result = invoke("run", "hi", "--cloud", url, "--require-cloud")
    refused(result, 4, "\\x1b[2J\\n\\u202eoops")


def test_a_port_in_use_is_told_before_the_model_is_loaded(invoke: Invoke) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(invoke("cloud", "--port", str(port)), 1, str(port), "--port")


@pytest.mark.parametrize("missing", ["uvicorn", "httptools", "prometheus_client"])
def test_without_its_extra_the_demo_says_what_to_install_and_chats_offline(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a)
    )
    result = invoke("run", "-", "--seed", "1", stdin=b"What is the capital of Peru?")
    assert result.out == "The capital of Peru is Lima.\n"
    assert len(result.complaints) == 1
    assert "pip install 'uhlm-edge[cloud]'" in result.err


def test_the_error_of_a_flag_is_exit_2(invoke: Invoke) -> None:
    result = invoke("run", "hi", "--temprature", "1")
    assert result.code == 2
    assert result.out == ""
    assert "--temprature" in result.err
