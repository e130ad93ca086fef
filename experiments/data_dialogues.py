"""Dialogues of the demo pair's domains: openings from templates, carried on by the cloud model.

`python -m uhlm_edge.experiments.data_dialogues OUT --n 150 --seed 1 --exclude FILE`
writes, for each turn
of the assistant, the history before it as one JSON object per line: `kind`, `conversation`,
`messages`. Lines of one dialogue share `conversation`, so that they can be kept on one side of a
split. Openings that FILE holds are drawn again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..lm.engines.generate import generate
from ..lm.engines.protocol import Engine
from ..lm.row import Row
from ..lm.sampling import Sampler, resample
from ..lm.template import ChatTemplate, Message

__all__ = ["carry_on", "make_dialogues", "make_opening"]

_SAMPLER = Sampler(temperature=0.7, top_k=0, top_p=0.9)  # of the turns before the calibrated one
_MAX_TOKENS = 64
_MAX_HISTORY = 400  # ids

_CITIES = """\
Oakland;Berkeley;San Mateo;Sunnyvale;Portland;Denver;Austin;Boston;Atlanta;Phoenix;Seattle;
Chicago;Las Vegas;Toronto;London;Paris;Sydney;San Diego;Washington;Vancouver""".replace("\n", "")
_SLOTS: dict[str, list[str]] = {
    "city": _CITIES.split(";"),
    "to": _CITIES.split(";")[::-1],
    "day": [
        "today",
        "tomorrow",
        "next Friday",
        "the 3rd of March",
        "March 9th",
        "this Sunday",
        "the 12th",
    ],
    "time": ["6 pm", "7:30 pm", "noon", "11:45 in the morning", "a quarter past 5 in the evening"],
    "n": ["two", "three", "four", "five"],
    "food": ["Italian", "Thai", "Mexican", "Japanese", "Indian", "vegetarian", "seafood"],
    "size": ["compact", "standard", "full-size"],
    "genre": ["rock", "pop", "country", "jazz", "electronic"],
    "film": ["comedy", "drama", "horror", "animated", "action", "documentary"],
    "artist": ["Adele", "Ed Sheeran", "Coldplay", "Taylor Swift", "Rihanna", "Imagine Dragons"],
    "drink": ["latte", "cappuccino", "mocha", "cold brew", "caramel macchiato", "chai tea"],
    "milk": ["oat milk", "almond milk", "whole milk", "no milk", "skim milk"],
    "cup": ["small", "medium", "large"],
    "airline": ["Delta Airlines", "United Airlines", "Southwest Airlines", "Air Canada"],
}
_OPENINGS = """\
I would love to eat {food} food in {city}, can you find me a place?
Please get me a table for {n} in {city} at {time}.
My {n} friends and I are hungry. We want {food} food near {city}.
Could you reserve a restaurant in {city} for {day} at {time}?
Please look for a one way flight from {city} to {to} on {day}.
I have to be in {to} by {day}. Which flights leave from {city}?
Are there any {airline} flights from {city} to {to}?
We are {n} people and need a round trip from {city} to {to}.
I need to find a hotel in {city} for {n} people.
Can you book a room in {city} from {day} for {n} nights?
What hotels are there in {city} that have a good rating?
I want to pick up a {size} rental car in {city} on {day}.
Is there a {size} car that I could rent in {city} at {time}?
Please order a taxi for {n} people to the airport in {city}.
I would like a shared ride in {city} for {n}.
Play me some {genre} music, please.
I want to hear something by {artist}.
Which {genre} songs do you have?
Do you know a good {film} movie for tonight?
I feel like watching a {film} film at home with {n} friends.
Find me a {film} movie that is playing in {city} on {day}.
Are there any {genre} concerts in {city} on {day}?
I would like a {cup} {drink} with {milk}.
Hi, can I get a {drink} to go? Make it {cup}.
Good morning, {n} {cup} {drink}s with {milk} please.
A {cup} {drink}, please, and something to eat with it.""".splitlines()


def make_opening(rng: random.Random) -> str:
    """What a user may say first."""
    form = rng.choice(_OPENINGS)
    chosen = {name: rng.choice(values) for name, values in _SLOTS.items()}
    while chosen["to"] == chosen["city"]:
        chosen["to"] = rng.choice(_SLOTS["to"])
    return form.format(**chosen)


def make_dialogues(
    engine: Engine, n: int, seed: int, turns: int = 4, exclude: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield the histories of `n` dialogues, each up to `turns` turns of the user.

    Args:
        engine: a model that knows how both sides talk.
        n: dialogues.
        seed: of all draws.
        turns: of the user, at most.
        exclude: openings that may not occur.
    """
    rng = random.Random(seed)  # noqa: S311 - made-up text, nothing secret
    seen = set(exclude)
    for conversation in range(n):
        while (opening := make_opening(rng)) in seen:
            pass
        seen.add(opening)
        messages = [Message(role="user", content=opening)]
        for turn in range(turns):
            yield {"kind": "dialogue", "conversation": conversation, "messages": list(messages)}
            if turn + 1 == turns:
                break
            for role in ("assistant", "user"):
                text = carry_on(engine, messages, role, rng)
                if not text or any(text == message["content"] for message in messages):
                    break
                messages.append(Message(role=role, content=text))
            if messages[-1]["role"] != "user" or len(messages) != 2 * turn + 3:
                break


def carry_on(engine: Engine, messages: list[Message], role: str, rng: random.Random) -> str:
    """The next message of `role` as the model would write it; "" if it finds no end."""
    vocab = engine.vocab
    template = ChatTemplate(vocab.template, vocab.bos, vocab.eos)
    # The template opens a reply of the assistant only; for a user, a marked message is cut off.
    mark = "\x1f"
    if role == "assistant":
        text = template.render(messages)
    else:
        text = template.render([*messages, Message(role=role, content=mark)], reply=False)
        text = text[: text.index(mark)]
    ids = vocab.tokenize(text, special=True)
    if len(ids) > _MAX_HISTORY:
        return ""

    def draw(row: Row) -> int:
        return resample(_SAMPLER.probs(row), None, rng.random())

    reply = [step.token for step in generate(engine, ids, draw, _MAX_TOKENS + 1)]
    found_end = bool(reply) and reply.pop() in vocab.end_ids
    return vocab.text(reply).strip() if found_end else ""


def _main() -> None:
    import argparse

    from ..lm.engines.llama import LlamaEngine
    from ..models.shipped import path_of

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exclude", type=Path, help="JSON lines whose openings are left out")
    args = parser.parse_args()
    exclude = set()
    if args.exclude:
        for line in args.exclude.read_text(encoding="utf-8").splitlines():
            exclude.add(json.loads(line)["messages"][0]["content"])
    engine = LlamaEngine(path_of("demo-llm"))
    with args.out.open("w", encoding="utf-8") as file:
        for row in make_dialogues(engine, args.n, args.seed, exclude=exclude):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    engine.close()


if __name__ == "__main__":
    _main()
