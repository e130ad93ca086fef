"""Texts to measure with: the user's own file, or prompts that come with the project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import DataError
from ...common.prompts import Message, json_rows, messages_of, read_text
from ...lm.chat import ChatEncoder
from ...lm.engines.generate import generate
from ...lm.engines.protocol import Engine
from ...lm.row import Row
from ...lm.sampling import Sampler, resample
from ...lm.vocabulary import Vocabulary

LONGEST = 512
"""Most ids of a passage; a longer text becomes several."""

REPLY = 64
"""Most ids that a model writes where a sample has no reply."""


@dataclass(frozen=True)
class Sample:
    """A conversation with or without its reply, or, with no messages, a plain text."""

    messages: tuple[Message, ...] = ()
    reply: str | None = None


@dataclass(frozen=True)
class Passage:
    """Ids, and from which position on they are measured. `open` wants a reply written first."""

    ids: tuple[int, ...]
    start: int
    open: bool = False


def _ask(text: str) -> Sample:
    return Sample((Message(role="user", content=text),))


BUILT_IN = tuple(
    _ask(text)
    for text in (
        "What is 17 + 25?",
        "What is 8 times 12?",
        "What is the capital of France?",
        "What is the capital of Kenya?",
        "What is the chemical symbol of iron?",
        "How many minutes are in 3 hours?",
        "Convert 5 kilometres to metres.",
        "Which day comes after Tuesday?",
        "Sort these numbers: 9, 4, 7, 1.",
        "Sort these words: pear, apple, fig.",
        "Spell the word house.",
        "Turn on the light in the kitchen.",
        "Set the heating in the bedroom to 20 degrees.",
        "Anna buys 4 apples at 3 dollars each. How much does Anna pay?",
        "Tom packs 6 boxes with 8 books each. How many books are packed?",
        "Hello! How are you?",
        "I want to book a table for two tonight.",
        "Can you find me a flight to Berlin on Monday?",
        "I would like to order a large coffee with milk.",
        "Play some music by a band that I may like.",
        "Find a hotel near the station for three nights.",
        "I need to rent a car this weekend.",
        "What do you recommend for dinner in this town?",
        "Thank you, that is all for today.",
    )
)


def read_samples(path: Path | None) -> list[Sample]:
    """The samples of a file; the built-in prompts without one.

    A file ending in `.jsonl` has an object per line: `messages`, perhaps with `answer` or
    `reference` as the reply, or `prompt`, or `text`. Any other file is one plain text.

    Raises:
        DataError: the file cannot be read, or a line is not of that form.
    """
    if path is None:
        return list(BUILT_IN)
    if path.suffix == ".jsonl":
        found = [_sample(row, f"{path}:{line}") for line, row in json_rows(path)]
    else:
        text = read_text(path)
        found = [Sample(reply=text)] if text.strip() else []
    if not found:
        raise DataError(f"{path}: is empty")
    return found


def _sample(row: dict[str, Any], place: str) -> Sample:
    if isinstance(row.get("text"), str):
        return Sample(reply=row["text"])
    if isinstance(row.get("prompt"), str):
        return _ask(row["prompt"])
    read = messages_of(row, place)
    reply = row.get("answer", row.get("reference"))
    if reply is None and read[-1]["role"] == "assistant":
        reply = read.pop()["content"]
    return Sample(tuple(read), reply if isinstance(reply, str) else None)


def encode(samples: Sequence[Sample], vocab: Vocabulary, bos: bool = False) -> list[Passage]:
    """Samples as ids of a vocabulary, conversations through its chat template.

    Of a conversation the reply is measured, of a plain text everything behind its first id. With
    `bos` each piece of a plain text has a begin-of-text id in front, as models want it that add
    one of their own accord; a chat template brings its own.
    """
    chat = ChatEncoder(vocab)
    passages: list[Passage] = []
    for sample in samples:
        if not sample.messages:
            ids = vocab.tokenize(sample.reply or "")
            first = vocab.tokenize(vocab.bos, special=True) if bos and vocab.bos else []
            step = LONGEST - len(first)
            parts = [(*first, *ids[at : at + step]) for at in range(0, len(ids), step)]
            passages += [Passage(part, 1) for part in parts if len(part) > 1]
            continue
        prompt = chat.encode(sample.messages)
        if sample.reply is None:
            passages.append(Passage(tuple(prompt[-LONGEST + REPLY :]), len(prompt), open=True))
            continue
        end = vocab.tokenize(vocab.eos, special=True) if vocab.eos else []
        reply = [*vocab.tokenize(sample.reply), *end]
        prompt = prompt[-max(1, LONGEST - len(reply)) :]
        ids = [*prompt, *reply][:LONGEST]
        passages.append(Passage(tuple(ids), len(prompt)))
    return passages


def complete(passage: Passage, engine: Engine, random: np.random.Generator) -> Passage:
    """The passage with a reply drawn from the model at temperature 1, if it has none."""
    if not passage.open:
        return passage
    sampler = Sampler(temperature=1.0, top_k=0, top_p=1.0)

    def draw(row: Row) -> int:
        return resample(sampler.probs(row), None, random.random())

    room = min(REPLY, engine.n_ctx - len(passage.ids) - 1)
    reply = [step.token for step in generate(engine, passage.ids, draw, room)]
    return Passage((*passage.ids, *reply), len(passage.ids))
