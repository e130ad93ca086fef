"""Show a reply as it comes: text for people, lines of JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from ...common.errors import CloudError
from ...common.streams import complain
from ...configs.config import Config
from ..events import Event, Notice, SkippedVerdict, Token
from .assistant import Assistant
from .status import StatusLine
from .terminal import Style, Terminal, counted, size_of


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
