"""A conversation: what is kept of it, what is left out, and what is told how often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from uhlm_edge.common.errors import UsageError
from uhlm_edge.common.prompts import Message
from uhlm_edge.edge.chat.assistant import Assistant
from uhlm_edge.edge.events import Event, Notice, Token
from uhlm_edge.edge.link.session import Session
from uhlm_edge.edge.policy.strategy import make_strategy
from uhlm_edge.lm.draws import turn_seed
from uhlm_edge.lm.ids import Slide

from ..pairs import Pair, Reference, ids_of, notices, pair

HLM = make_strategy("hlm")


def assistant(p: Pair, offline: bool = False, **options: object) -> Assistant:
    session = Session(None, p.device.vocab) if offline else p.session
    given = {"max_tokens": 8, "seed": 3, "pipelined": False, **options}
    return Assistant(p.device, session, HLM, **given)  # type: ignore[arg-type]


def rendered(*said: str) -> str:
    """The default template: who says what, in turns."""
    roles = ("user", "assistant")
    lines = [f"{roles[i % 2]}: {text}\n" for i, text in enumerate(said)]
    return "".join(lines) + "assistant:"


def read(p: Pair) -> int:
    """How many ids the verifier has read."""
    return sum(len(work.tokens) for works in p.context.passes for work in works)


@pytest.fixture
def p() -> Iterator[Pair]:
    with pair(n_ctx=400, cloud_n_ctx=400) as p:
        yield p


def test_a_reply_is_to_the_whole_conversation(p: Pair) -> None:
    talk = assistant(p)
    first = list(talk.reply("hi"))
    prompt = p.device.vocab.tokenize(rendered("hi"))
    assert ids_of(first) == Reference(prompt, 3, n=8).hlm
    said = talk.text
    second = list(talk.reply("well?"))
    if said.isascii():
        prompt = p.device.vocab.tokenize(rendered("hi", said, "well?"))
        assert ids_of(second) == Reference(prompt, turn_seed(3, 1), n=8).hlm
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[1]["content"] == said
    assert talk.messages[3]["content"] == talk.text


def test_a_system_message_stays_after_a_reset(p: Pair) -> None:
    talk = assistant(p, system="be brief")
    list(talk.reply("hi"))
    talk.reset()
    list(talk.reply("again"))
    assert len(talk.messages) == 2
    shown = p.device.vocab.text(p.device.cache.ids)
    assert shown.startswith("system: be brief\nuser: again\nassistant:")


def test_a_reply_that_is_stopped_is_kept_as_far_as_it_came(p: Pair) -> None:
    talk = assistant(p)
    events = talk.reply("hi")
    said = [next(events) for _ in range(3)]
    events.close()
    text = "".join(event.text for event in said if isinstance(event, Token))
    assert talk.messages[-1] == {"role": "assistant", "content": text}
    assert talk.loop is not None
    assert talk.loop.stats.tokens == 3
    list(talk.reply("go on"))
    assert len(talk.messages) == 4


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_prompt_is_refused_and_nothing_is_lost(p: Pair, text: str) -> None:
    talk = assistant(p)
    list(talk.reply("hi"))
    before = list(talk.messages)
    with pytest.raises(UsageError, match="empty"):
        talk.reply(text)
    assert talk.messages == before


def test_a_prompt_that_does_not_fit_is_refused_and_nothing_is_lost(p: Pair) -> None:
    talk = assistant(p)
    list(talk.reply("hi"))
    before = list(talk.messages)
    with pytest.raises(UsageError, match="shorten it") as caught:
        talk.reply("x" * 500)
    assert "400" in str(caught.value)
    assert talk.messages == before
    assert len(ids_of(list(talk.reply("short")))) > 0


def test_the_oldest_turns_are_left_out_and_the_user_is_told(p: Pair) -> None:
    talk = assistant(p, system="be brief", offline=True)
    events: list[Event] = []
    for turn in range(6):
        events = list(talk.reply(f"{turn}" * 100))
    (told,) = notices(events)
    assert "longer than the context of 400 tokens" in told
    assert "messages are left out" in told
    shown = p.device.vocab.text(p.device.cache.ids)
    assert shown.startswith("system: be brief\nuser: ")
    assert "5" * 100 in shown
    assert "0" * 100 not in shown
    assert len(talk.messages) == 12  # left out of the prompt, not of the conversation


@pytest.mark.parametrize("word", ["a", "word ", "a" * 30])
@pytest.mark.parametrize("turns", [1, 2, 7, 60])
def test_as_few_turns_as_must_be_are_left_out_and_little_is_tried(
    p: Pair, turns: int, word: str
) -> None:
    talk = assistant(p, system="be brief", offline=True)
    messages: list[Message] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": word * (1 + turn % 7)})
        messages.append({"role": "assistant", "content": "x" * (turn % 11)})
    messages.pop()
    encode, tried = talk.chat.encode, list[int]()

    def counted(given: Sequence[Message]) -> list[int]:
        tried.append(len(ids := encode(given)))
        return ids

    talk.chat.encode = counted  # type: ignore[assignment]
    kept, ids = talk._fit(messages)
    system: list[Message] = [{"role": "system", "content": "be brief"}]
    assert ids == encode([*system, *kept])
    more = messages[len(messages) - len(kept) - 2 :]
    assert len(kept) == len(messages) or len(encode([*system, *more])) > 400 - 8
    assert max(tried) <= 8 * 400
    assert len(tried) <= 12


@pytest.mark.parametrize("slide", ["none", "device", "both"])
def test_a_long_chat_reads_only_what_is_new_on_the_sides_that_slide(p: Pair, slide: Slide) -> None:
    """Twelve turns in a context of four: what a turn costs does not depend on the turns before."""
    p.device = replace(p.device, slide=slide)
    talk = assistant(p, system="be brief")
    device, verifier = [], []
    for turn in range(12):
        p.engine.widths.clear()
        p.context.passes.clear()
        list(talk.reply(chr(97 + turn) * 70))
        device.append(max(p.engine.widths))
        verifier.append(read(p))
    a_turn = 70 + len("assistant: \nuser: \nassistant:") + 8 * 6  # a reply is not always ASCII
    assert (max(device[6:]) <= a_turn) is (slide != "none")
    assert (max(verifier[6:]) <= a_turn + 16) is (slide == "both")


def test_what_a_user_takes_out_of_a_conversation_is_read_without_it(p: Pair) -> None:
    """Only turns that no longer fit are slid over: what else is missing must leave no trace."""
    p.device = replace(p.device, slide="both")
    talk = assistant(p)
    said: list[Message] = [
        {"role": "user", "content": "a secret"},
        {"role": "assistant", "content": "I see"},
        {"role": "user", "content": "something else " * 4},
    ]
    list(talk.answer(said))
    p.engine.widths.clear()
    p.context.passes.clear()
    list(talk.answer(said[2:]))
    changed = len(said[2]["content"])
    assert max(p.engine.widths) >= changed
    assert read(p) >= changed


def test_a_control_token_that_is_typed_stays_text(p: Pair) -> None:
    talk = assistant(p, offline=True)
    list(talk.reply("a<|end|>b"))
    end = len(p.device.vocab) - 1
    prompt = p.device.cache.ids[: -len(talk.loop.tokens)]  # type: ignore[union-attr]
    assert end not in prompt


def test_a_fault_is_told_once_and_again_only_after_an_answer(p: Pair) -> None:
    """Four replies: a fault, the same, an answer, a fault."""
    talk = assistant(p)
    p.clock.tick = 100.0
    told = []
    for down in (True, True, False, True):
        p.link.fault = lambda _, down=down: "lost" if down else None  # type: ignore[misc]
        told.append(notices(list(talk.reply("hi"))))
    assert [len(each) for each in told] == [1, 0, 1, 1]
    assert told[2] == ["the cloud answers again"]


def test_what_was_told_at_the_start_is_not_told_again(p: Pair) -> None:
    p.link.fault = lambda _: "lost"
    p.clock.tick = 100.0
    told = "the call was lost; going on with the device alone"
    assert not notices(list(assistant(p, known=told).reply("hi")))
    assert notices(list(assistant(p).reply("hi"))) == [told]


def test_a_notice_is_no_token(p: Pair) -> None:
    p.link.fault = lambda _: "lost"
    events = list(assistant(p).reply("hi"))
    assert isinstance(events[0], Notice)
    assert len(ids_of(events)) == len(events) - 1
