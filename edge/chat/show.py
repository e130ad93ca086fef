"""Show a reply as it comes, and say of the last one why each token is what it is."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from ...common.errors import CloudError
from ...common.streams import complain
from ...common.text import one_line
from ...configs.config import Config
from ..events import Event, Notice, SkippedVerdict, Token
from .assistant import Assistant
from .status import StatusLine
from .terminal import Style, Terminal, counted, size_of

_LEAST = 16  # columns for what happened, however narrow the terminal


@dataclass
class Shown:
    """What a reply consisted of."""

    tokens: list[Token] = field(default_factory=list)
    verdicts: list[SkippedVerdict] = field(default_factory=list)


def tell(text: str) -> None:
    """One line for the user, beside the answer."""
    sys.stdout.flush()
    complain(text)


def show(
    assistant: Assistant,
    config: Config,
    events: Generator[Event, None, None],
    as_json: bool = False,
    status: bool = False,
) -> Shown:
    """Show a reply, event by event.

    Args:
        assistant: makes the reply.
        config: says whether the cloud is required.
        events: of the reply.
        as_json: lines of JSON instead of text.
        status: keep a line at the foot of the terminal.

    Raises:
        CloudError: the cloud is required and away.
    """
    shown = Shown()
    terminal = Terminal(sys.stdout, Style.of(sys.stdout), _width)
    line = StatusLine(sys.stdout, lambda: size_of(sys.stdout), Style.of(sys.stdout))
    try:
        with line.shown() if status else nullcontext():
            for event in events:
                if isinstance(event, Notice):
                    seen_together = not as_json and sys.stderr.isatty()
                    with terminal.aside() if seen_together else nullcontext():
                        tell(event.text)
                    reason = assistant.loop.stats.offline_reason if assistant.loop else None
                    if config.cloud.require and reason:
                        raise CloudError(reason)
                    continue
                if isinstance(event, Token):
                    shown.tokens.append(event)
                    line.show(_progress(assistant, event))
                else:
                    shown.verdicts.append(event)
                if as_json:
                    kind = "judged" if isinstance(event, SkippedVerdict) else "token"
                    _print_json({"event": kind, **asdict(event)})
                elif isinstance(event, Token):
                    terminal.write(event)
    finally:
        events.close()  # settle the books now
        if not as_json:
            print(flush=True)
    if as_json and (stats := assistant.costs()) is not None:
        reason = assistant.finish_reason
        _print_json(
            {"event": "done", "text": assistant.text, "finish_reason": reason, "stats": stats}
        )
    return shown


def _progress(assistant: Assistant, token: Token) -> str:
    stats = assistant.loop.stats if assistant.loop else None
    if stats is None:
        return ""
    rate = stats.tokens / token.time if token.time else 0.0
    parts = [counted(stats.tokens, "token"), counted(stats.uploads, "upload")]
    parts.append(f"{rate:.0f} tokens/s")
    parts.append("the cloud is away" if stats.offline_reason else "Ctrl-C stops")
    return " · ".join(parts)


def _width() -> int | None:
    size = size_of(sys.stdout)
    return None if size is None else size[0]


def _print_json(line: dict[str, Any]) -> None:
    print(json.dumps({"v": 1, **line}), flush=True)


def explained(
    tokens: Sequence[Token],
    verdicts: Sequence[SkippedVerdict],
    drafts: Mapping[int, str],
    threshold: float | None,
    width: int | None = None,
) -> Iterator[str]:
    """How unsure the device was of each token, and what came of it.

    A line per token, or several where one is too long for the terminal.

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
