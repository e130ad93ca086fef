"""Stop texts: a reply that ends before a text that was named, however tokens cut that text."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

from ..events import Token


def until_stop(tokens: Iterable[Token], stops: Sequence[str]) -> Generator[Token, None, bool]:
    """Pass tokens on until one of `stops` appears in their text; it is cut off.

    A token is held back while what it ends with may be the beginning of a stop text.

    Returns:
        Did a stop text appear? (The value of `yield from`.)
    """
    held: list[Token] = []
    for token in tokens:
        held.append(token)
        text = "".join(each.text for each in held)
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            yield from _first(held, min(found))
            return True
        keep = max((_overlap(text, stop) for stop in stops), default=0)
        while held and sum(len(each.text) for each in held[1:]) >= keep:
            yield held.pop(0)
    yield from held
    return False


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def _first(tokens: Iterable[Token], n: int) -> Iterable[Token]:
    """Tokens with the first `n` characters of their text; the last one may be cut."""
    for token in tokens:
        if n <= 0:
            return
        yield token if len(token.text) <= n else replace(token, text=token.text[:n])
        n -= len(token.text)
