"""The commands of a chat, as lines over a pipe: the same that a user types."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from uhlm_edge.edge.chat.commands import Commands
from uhlm_edge.edge.chat.keyboard import unquoted
from uhlm_edge.edge.chat.piped import turns
from uhlm_edge.edge.chat.show import explained
from uhlm_edge.edge.events import SkippedVerdict, Token

from ...commands import Result, run_here

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of Peru?"
ANSWER = "The capital of Peru is Lima."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def chat(home: Path, *lines: str, flags: tuple[str, ...] = ()) -> Result:
    stdin = "\n".join(lines).encode() + b"\n"
    return run_here(["chat", "--offline", "--seed", "1", *flags], home, stdin)


def test_a_conversation_is_kept_for_its_owner_and_goes_on(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    first = chat(home, "/system Be brief.", QUESTION, f"/save {file}", "exit", "never said")
    assert first.out == f"{ANSWER}\n"
    assert "never said" not in first.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = json.loads(file.read_text("utf-8"))
    assert kept["system"] == "Be brief."
    assert [m["role"] for m in kept["messages"]] == ["user", "assistant"]
    again = chat(home, f"/load {file}", "/retry", "/bye")
    assert again.out == f"{ANSWER}\n"
    assert f"2 messages from {file}" in again.err


def test_settings_change_in_the_chat_and_are_checked(home: Path) -> None:
    result = chat(
        home, "/set chat.max_tokens 2", QUESTION, "/threshold high", "/set device.model x",
        "/set strategy.partner demo-llm", "/set sampler.heat 2", "/set heat 2", "/strategy hlm",
        "/show strategy.name", "/show nothing", "/nonsense", "/stats",
    )  # fmt: skip
    assert result.out == "The capital\n"
    assert "cut off by --max-tokens" in result.err
    assert "must be a number, averse, prone, risk or adaptive" in result.err
    assert "device.model cannot be changed in a chat" in result.err
    assert "strategy.partner cannot be changed in a chat" in result.err
    assert "unknown key sampler.heat (here)" in result.err
    assert "unknown key heat (here)" in result.err
    assert "strategy.name = hlm" in result.err
    assert "no command /nonsense; /help lists them" in result.err
    assert "1 reply · 2 tokens" in result.err
    assert "no key begins with nothing" in result.err
    assert result.code == 0


def test_a_threshold_of_another_score_is_dropped_and_told(home: Path) -> None:
    result = chat(home, "/threshold 0.3", "/strategy spec", "/strategy reward", "/bye")
    spec, reward = result.err.split("strategy.name = reward")
    assert "another score" not in spec
    assert "the threshold 0.3 was of another score" in reward


def test_a_file_that_holds_no_conversation_is_refused(home: Path, tmp_path: Path) -> None:
    bad = {"a": "{", "b": '{"system": 1}', "c": '{"system": "", "messages": [{"role": "root"}]}'}
    for name, content in bad.items():
        (tmp_path / name).write_text(content, "utf-8")
    lines = [f"/load {tmp_path / name}" for name in [*bad, "nowhere"]]
    result = chat(home, *lines, "/bye")
    assert result.err.count("holds no conversation that /save wrote") == 3
    assert "No such file" in result.err
    assert "Traceback" not in result.err


def test_why_goes_through_the_reply_token_by_token(home: Path) -> None:
    result = chat(home, QUESTION, "/why")
    lines = result.err[result.err.index("what happened") :].splitlines()
    assert len(lines) == 9  # a title and eight tokens
    assert lines[1].split()[:2] == ["0", "'The'"]
    assert "not asked" in lines[1]
    assert "(end)" in lines[-1]


def test_lines_between_triple_quotes_are_one_prompt() -> None:
    told: list[str] = []
    raw = b'one\n"""two\n\nthree"""\n  \n"""four"""\n\xff\n"""five\nsix'
    said = list(turns(raw.splitlines(keepends=True), told.append))
    assert said == ["one", "two\n\nthree", "four", "five\nsix"]
    assert len(told) == 1
    assert "not UTF-8" in told[0]
    assert unquoted('"""a\nb"""') == "a\nb"
    assert unquoted(" plain ") == "plain"


def test_what_happened_to_each_kind_of_token_is_said() -> None:
    plain = Token(0, 1, "a", "edge", 0.1, False, None, False, 0.0)
    tokens = [
        plain,
        Token(1, 1, "b", "edge", 0.9, True, True, False, 0.0),
        Token(2, 1, "c", "cloud", 0.9, True, False, False, 0.0),
        Token(3, 1, "\x1b", "cloud", None, True, None, False, 0.0),
        Token(4, 1, "e", "edge", 0.9, True, None, True, 0.0),
        Token(5, 1, "f", "edge", 0.9, False, None, True, 0.0),
        Token(6, 1, "g", "edge", 0.9, False, None, True, 0.0, "mean u 0.300 > 0.047"),
        Token(7, 1, "h", "cloud", None, True, None, False, 0.0, "mean u 0.300 > 0.047"),
    ]
    lines = list(explained(tokens, [SkippedVerdict(0, 0.1, 0.25)], {2: "x"}, 0.5))[1:]
    for line, words in zip(
        lines,
        [
            "not asked; the cloud said later: 75 % likely to be kept",
            "confirmed by the cloud",
            "in place of 'x'",
            "written by the cloud",
            "no answer",
            "the cloud was away",
            "written by the device: mean u 0.300 > 0.047, but the cloud was away",
            "written by the cloud: mean u 0.300 > 0.047",
        ],
        strict=True,
    ):
        assert words in line
    assert "\x1b" not in "".join(lines)


def test_what_happened_is_never_broken_within_a_word() -> None:
    token = Token(0, 1, "a", "edge", 0.1, False, None, False, 0.0)
    whole = list(explained([token], [SkippedVerdict(0, 0.1, 0.25)], {}, 0.5))
    for width in (40, 60, 80):
        narrow = list(explained([token], [SkippedVerdict(0, 0.1, 0.25)], {}, 0.5, width))[1:]
        assert " ".join(" ".join(narrow).split()) == " ".join(whole[1].split())
        assert len(narrow) > 1
        assert width == 40 or max(map(len, narrow)) < width


def test_completion_offers_commands_names_and_keys() -> None:
    class Anything:
        """Completing asks the assistant nothing."""

    commands = Commands(Anything(), Anything(), print)  # type: ignore[arg-type]
    assert commands.completions("/st") == ["/stats", "/strategy"]
    assert commands.completions("/strategy u") == ["uhlm"]
    assert commands.completions("/threshold a") == ["averse", "adaptive"]
    assert "sampler.temperature" in commands.completions("/set sampler.t")
    assert commands.completions("/save x") == []
