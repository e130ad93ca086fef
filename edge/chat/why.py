"""The last reply token by token: how unsure the device was, and what came of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from ...common.text import one_line
from ..events import SkippedVerdict, Token

_LEAST = 16  # columns for what happened, however narrow the terminal


def explained(
    tokens: Sequence[Token],
    verdicts: Sequence[SkippedVerdict],
    drafts: Mapping[int, str],
    threshold: float | None,
    width: int | None = None,
) -> Iterator[str]:
    """A line per token, or several where one is too long for the terminal.

    Args:
        tokens: of the reply.
        verdicts: what later calls told about skipped tokens.
        drafts: what the device had proposed, by index.
        threshold: of u, as it is now; None if the strategy has none.
        width: columns; None: no terminal, whose edge would break words.
    """
    betas = {verdict.index: verdict.beta for verdict in verdicts}
    yield f"{'':4} {'token':20} {'u':>5}  what happened"
    for token in tokens:
        u = "" if token.uncertainty is None else f"{token.uncertainty:.2f}"
        text = one_line(repr(token.text) if token.text else "(end)", 20)
        what = _happened(token, drafts.get(token.index), betas.get(token.index), threshold)
        head = f"{token.index:4} {text:20} {u:>5}  "
        room = len(what) if width is None else max(width - len(head) - 1, _LEAST)
        first, *more = textwrap.wrap(what, max(room, 1))
        yield head + first
        yield from (" " * len(head) + line for line in more)


def _happened(token: Token, draft: str | None, beta: float | None, threshold: float | None) -> str:
    if token.reason is not None:  # of the whole reply
        who = "cloud" if token.source == "cloud" else "device"
        away = ", but the cloud was away" if token.unverified else ""
        return f"written by the {who}: {token.reason}{away}"
    if token.source == "cloud":
        if token.accepted is False and draft is not None:
            return f"asked: the cloud wrote this in place of {one_line(repr(draft), 30)}"
        return "written by the cloud"
    if token.accepted:
        return "asked: confirmed by the cloud"
    if token.uploaded:
        return "asked: no answer, so the device's word stands"
    if threshold is None or token.uncertainty is None:
        what = "written by the device"
    elif token.uncertainty > threshold:
        what = f"u is over {threshold:.3g}, but the cloud was away"
    else:
        what = f"sure enough (u is not over {threshold:.3g}), not asked"
    if beta is not None:
        what += f"; the cloud said later: {100 * (1 - beta):.0f} % likely to be kept"
    return what
