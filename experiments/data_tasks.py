"""Prompts with one right answer each, of the kinds that the demo pair knows.

`python -m uhlm_edge.experiments.data_tasks OUT --n 1000 --seed 1 --exclude FILE`
writes them, one JSON
object per line: `kind`, `messages`, `answer`. A prompt that FILE holds is drawn again, so that
what is fitted on one file can be judged on the other.
"""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from .task_facts import CAPITALS, DEVICES, ELEMENTS, NAMES, ROOMS, THINGS, WORDS

__all__ = ["KINDS", "make_tasks"]

Task = tuple[str, str]  # prompt, answer
_TIMES, _BY = "\u00d7", "\u00f7"
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def make_tasks(n: int, seed: int, exclude: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield `n` different tasks, none of whose prompts is in `exclude`."""
    rng = random.Random(seed)  # noqa: S311 - made-up tasks, nothing secret
    seen = set(exclude)
    kinds, weights = list(KINDS), [3 if kind == "story" else 1.3 for kind in KINDS]
    while n:
        (kind,) = rng.choices(kinds, weights)
        prompt, answer = KINDS[kind](rng)
        if prompt in seen:
            continue
        seen.add(prompt)
        n -= 1
        message = {"role": "user", "content": prompt}
        yield {"kind": kind, "messages": [message], "answer": answer}


def _arithmetic(rng: random.Random) -> Task:
    sign, word = rng.choice([("+", "plus"), ("-", "minus"), (_TIMES, "times")])
    if sign == _TIMES:
        most = rng.choice([(12, 12), (99, 9), (99, 99), (999, 9)])
        x, y = rng.randint(2, most[0]), rng.randint(2, most[1])
    else:
        digits = rng.choice([1, 2, 2, 2, 3, 3, 3, 4, 5])
        x, y = rng.randrange(10**digits), rng.randrange(10**digits)
    if sign == "-":
        x, y = max(x, y), min(x, y)
    value = {"+": x + y, "-": x - y, _TIMES: x * y}[sign]
    form = rng.choice(
        ["What is {}?", "What's {}?", "How much is {}?", "Calculate {}.", "Can you work out {}?"]
    )
    return form.format(f"{x} {rng.choice([sign, word])} {y}"), f"{x} {sign} {y} = {value}."


def _capital(rng: random.Random) -> Task:
    country = rng.choice(list(CAPITALS))
    capital = CAPITALS[country]
    if rng.random() < 0.25:
        form = rng.choice(
            ["Which country has {} as its capital?", "{} is the capital of which country?"]
        )
        return form.format(capital), f"{capital} is the capital of {country}."
    form = rng.choice(
        [
            "What is the capital of {}?",
            "What's the capital city of {}?",
            "Which city is the capital of {}?",
            "Tell me the capital of {}.",
        ]
    )
    return form.format(country), f"The capital of {country} is {capital}."


def _element(rng: random.Random) -> Task:
    number = rng.randint(1, len(ELEMENTS))
    name, symbol = ELEMENTS[number - 1]
    what = rng.choice(["symbol", "name", "number"])
    if what == "symbol":
        form = rng.choice(["What is the chemical symbol for {}?", "What's the symbol of {}?"])
        return form.format(name), f"The chemical symbol for {name} is {symbol}."
    if what == "name":
        form = rng.choice(["Which element has the symbol {}?", "What element is {}?"])
        return form.format(symbol), f"{symbol} is the symbol for {name}."
    form = rng.choice(
        ["What is the atomic number of {}?", "Which atomic number does {} have?"]
    )  # fmt: skip
    return form.format(name), f"The atomic number of {name} is {number}."


def _units(rng: random.Random) -> Task:
    n = rng.randint(2, 99)
    kind = rng.randrange(6)
    if kind == 0:
        celsius = 5 * rng.randint(0, 99)
        prompt = f"What is {celsius} degrees Celsius in Fahrenheit?"
        fahrenheit = celsius * 9 // 5 + 32
        return prompt, f"{celsius} degrees Celsius is {fahrenheit} degrees Fahrenheit."
    if kind == 1:
        return f"Convert {n} kilometers to meters.", f"{n} kilometers is {1000 * n} meters."
    small, large, factor = [
        ("minutes", "hours", 60),
        ("seconds", "minutes", 60),
        ("days", "weeks", 7),
        ("inches", "feet", 12),
    ][kind - 2]
    return f"How many {small} are in {n} {large}?", f"{n} {large} is {factor * n} {small}."


def _days(rng: random.Random) -> Task:
    if rng.random() < 0.5:
        n, day = rng.randint(1, 60), rng.randrange(7)
        later = _DAYS[(day + n) % 7]
        form = rng.choice(
            [
                "If today is {1}, what day will it be in {0} days?",
                "What day is it {0} days after {1}?",
            ]
        )
        return form.format(n, _DAYS[day]), f"{n} days after {_DAYS[day]} is {later}."
    n = rng.randint(2, 90)
    date = datetime.date(2023, 1, 1) + datetime.timedelta(days=rng.randrange(365))
    later_date = date + datetime.timedelta(days=n)
    first, then = (f"{d:%B} {d.day}" for d in (date, later_date))
    return f"Which date is {n} days after {first}?", f"{n} days after {first} is {then}."


def _order(rng: random.Random) -> Task:
    kind = rng.choice(["words", "spell", "sort", "extreme"])
    if kind == "spell":
        word = rng.choice(WORDS)
        form = rng.choice(["Spell the word {}.", "How do you spell {}?"])
        return form.format(word), "-".join(word.upper()) + "."
    if kind == "words":
        words = rng.sample(WORDS, rng.randint(3, 7))
        prompt = f"Put these words in alphabetical order: {', '.join(words)}."
        return prompt, f"In order: {', '.join(sorted(words))}."
    if kind == "sort":
        numbers = [rng.randint(0, 999) for _ in range(rng.randint(3, 8))]
        listed, in_order = (", ".join(map(str, x)) for x in (numbers, sorted(numbers)))
        return f"Sort these numbers: {listed}.", f"In order: {in_order}."
    numbers = [rng.randint(0, 999) for _ in range(rng.randint(3, 6))]
    listed = ", ".join(map(str, numbers))
    name, value = rng.choice([("smallest", min(numbers)), ("largest", max(numbers))])
    return f"Which of these numbers is the {name}: {listed}?", f"The {name} number is {value}."


def _device(rng: random.Random) -> Task:
    device, room = rng.choice(list(DEVICES)), rng.choice(ROOMS)
    command: dict[str, Any] = {"device": device, "room": room}
    if rng.random() < 0.4:
        setting, action, least, most = DEVICES[device]
        value = rng.randint(least, most)
        form = rng.choice(
            [
                "Set the {room} {device} to {value}.",
                "I want the {room} {device} {setting} at {value}.",
                "Make the {device} in the {room} {value}, please.",
            ]
        )
        command |= {"action": action, "value": value}
        prompt = form.format(room=room, device=device, setting=setting, value=value)
        return prompt, json.dumps(command)
    state = rng.choice(["on", "off"])
    command["action"] = f"turn_{state}"
    if rng.random() < 0.5:
        form = rng.choice(
            [
                "Turn {state} the {room} {device}.",
                "Can you turn the {room} {device} {state}?",
                "Switch the {device} in the {room} {state}, please.",
            ]
        )
        return form.format(state=state, room=room, device=device), json.dumps(command)
    at = f"{rng.randrange(24):02}:{rng.choice([0, 15, 30, 45]):02}"
    form = rng.choice(
        [
            "Turn {state} the {room} {device} at {at}.",
            "At {at}, switch the {device} in the {room} {state}.",
        ]
    )
    command["at"] = at
    return form.format(state=state, room=room, device=device, at=at), json.dumps(command)


def _story(rng: random.Random) -> Task:
    one, two = rng.sample(NAMES, 2)
    thing, other = rng.sample(THINGS, 2)
    kind = rng.choice(["buy", "pack", "pack", "give", "museum", "share"])
    if kind == "buy":
        n, m, p, q = rng.randint(2, 39), rng.randint(2, 39), rng.randint(2, 9), rng.randint(2, 9)
        return (
            f"{one} buys {n} {thing} at {p} dollars each and {m} {other} at {q} dollars each. "
            f"How much does {one} pay?",
            f"The {thing} cost {n} {_TIMES} {p} = {n * p} dollars. "
            f"The {other} cost {m} {_TIMES} {q} = {m * q} dollars. "
            f"Together that is {n * p} + {m * q} = {n * p + m * q} dollars. "
            f"The answer is {n * p + m * q}.",
        )
    if kind == "pack":
        n, m, p, q = rng.randint(2, 39), rng.randint(2, 39), rng.randint(2, 9), rng.randint(2, 9)
        return (
            f"{one} packs {n} boxes with {p} {thing} each. {two} packs {m} boxes with {q} {thing} "
            f"each. How many {thing} are packed in total?",
            f"{one} packs {n} {_TIMES} {p} = {n * p} {thing}. "
            f"{two} packs {m} {_TIMES} {q} = {m * q} {thing}. "
            f"In total there are {n * p} + {m * q} = {n * p + m * q} {thing}. "
            f"The answer is {n * p + m * q}.",
        )
    if kind == "give":
        n, give, find = rng.randint(30, 900), rng.randint(2, 19), rng.randint(3, 39)
        left, now = n - give, n - give + find
        return (
            f"{one} has {n} {thing}. {one} gives {give} {thing} to {two} and then finds {find} "
            f"more. How many {thing} does {one} have now?",
            f"After giving {give} away, {one} has {n} - {give} = {left} {thing}. After finding "
            f"{find} more, {one} has {left} + {find} = {now} {thing}. The answer is {now}.",
        )
    if kind == "museum":
        price, n, spent = rng.randint(12, 59), rng.randint(2, 6), rng.randint(3, 39)
        cost = price * n
        left, now = 1000 - cost, 1000 - cost - spent
        return (
            f"A ticket to the museum costs {price} dollars. {one} buys {n} tickets and pays with a "
            f"1000-dollar voucher, then spends {spent} dollars on {thing}. "
            "How many dollars are left?",
            f"The tickets cost {price} {_TIMES} {n} = {cost} dollars. "
            f"That leaves 1000 - {cost} = {left} dollars. "
            f"After the {thing}, {left} - {spent} = {now} dollars are left. "
            f"The answer is {now}.",
        )
    friends, each, lost = rng.randint(2, 9), rng.randint(4, 39), 2
    n, left = friends * each, each - lost
    return (
        f"{one} shares {n} {thing} equally among {friends} friends. Each friend then eats or loses "
        f"{lost} of them. How many {thing} does each friend have left?",
        f"Each friend gets {n} {_BY} {friends} = {each} {thing}. "
        f"After losing {lost}, each friend has {each} - {lost} = {left} {thing}. "
        f"The answer is {left}.",
    )


KINDS: dict[str, Callable[[random.Random], Task]] = {
    "arithmetic": _arithmetic,
    "capital": _capital,
    "element": _element,
    "units": _units,
    "days": _days,
    "order": _order,
    "device": _device,
    "story": _story,
}


def _main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exclude", type=Path, help="JSON lines whose prompts are left out")
    args = parser.parse_args()
    exclude = set()
    if args.exclude:
        for line in args.exclude.read_text(encoding="utf-8").splitlines():
            exclude.add(json.loads(line)["messages"][-1]["content"])
    with args.out.open("w", encoding="utf-8") as file:
        for task in make_tasks(args.n, args.seed, exclude):
            file.write(json.dumps(task, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    _main()
