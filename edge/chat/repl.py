"""`chat` and `run`: read what the user says, show or print what is answered."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ...common.errors import CloudError, UhlmError, UsageError
from ...common.streams import complain
from ...common.text import one_line
from ...configs.config import Config
from ..events import Event, Notice, SkippedVerdict, Token
from ..link.protocol import Link
from .assemble import assemble
from .assistant import Assistant
from .terminal import Style, Terminal, legend, summary

__all__ = ["answer", "chat", "read_stdin"]

_SAMPLES = (
    "What is the capital of Peru?",
    "Switch the lamp in the kitchen on, please.",
    "I'd like to book a table for two in Albany tonight.",
)
_HELP = """\
/help   this text
/reset  begin a new conversation
/quit   leave (or Ctrl-D)
Ctrl-C  stop the reply"""


def answer(
    config: Config,
    text: str,
    link: Link | None = None,
    as_json: bool = False,
    verbose: bool = False,
) -> None:
    """Answer one prompt: the answer on stdout, everything else on stderr.

    Raises:
        UhlmError: see `assemble`; nothing was printed on stdout.
    """
    if not text.strip():
        raise UsageError("the prompt is empty; say something")
    with assemble(config, _tell, link) as assistant:
        if verbose:
            _tell(_backend(assistant))
        style = Style.of(sys.stdout)
        _show(assistant, config, assistant.reply(text), as_json, style)
        if not as_json and style.off and assistant.loop is not None:
            print(summary(assistant.loop.stats, Style.of(sys.stderr)), file=sys.stderr)


def chat(
    config: Config, link: Link | None = None, as_json: bool = False, verbose: bool = False
) -> None:
    """Turn after turn until the input ends."""
    interactive = sys.stdin.isatty()
    with assemble(config, _tell, link) as assistant:
        style = Style.of(sys.stdout)
        status = Style.of(sys.stderr)
        if verbose or interactive:
            _tell(_backend(assistant))
        if interactive:
            print(_banner(config, assistant), file=sys.stderr)
            if text := legend(status):
                print(text, file=sys.stderr)
        for said in _turns(interactive, as_json, style):
            if said == "/help":
                print(_HELP, file=sys.stderr)
            elif said == "/reset":
                assistant.reset()
                _tell("a new conversation")
            elif said == "/quit":
                return
            elif said.startswith("/") and interactive:
                _tell(f"no command {one_line(said, 40)}; /help lists them")
            else:
                _turn(assistant, config, said, as_json, style, status)


def _turn(
    assistant: Assistant, config: Config, said: str, as_json: bool, style: Style, status: Style
) -> None:
    """One reply. Whatever goes wrong with it, the session goes on."""
    try:
        _show(assistant, config, assistant.reply(said), as_json, style)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        _tell("stopped; what was said so far is kept")
    except CloudError:
        raise  # only if the configuration requires the cloud
    except UhlmError as error:
        _tell(str(error))
        return
    if not as_json and assistant.loop is not None:
        print(summary(assistant.loop.stats, status), file=sys.stderr)


def _show(
    assistant: Assistant, config: Config, events: Iterator[Event], as_json: bool, style: Style
) -> None:
    write = _write_json if as_json else _write_text(style)
    try:
        for event in events:
            if isinstance(event, Notice):
                _tell(event.text)
                if config.cloud.require and assistant.loop and assistant.loop.stats.offline_reason:
                    raise CloudError(assistant.loop.stats.offline_reason)
            else:
                write(event)
    finally:
        events.close()  # type: ignore[attr-defined]  # a generator: settle the books now
        if not as_json:
            print(flush=True)
    if as_json and assistant.loop is not None:
        stats = assistant.loop.stats.to_json()
        _print_json({"event": "done", "text": assistant.text, "stats": stats})


def _write_text(style: Style) -> Callable[[Event], None]:
    terminal = Terminal(sys.stdout, style)

    def write(event: Event) -> None:
        if isinstance(event, Token):
            terminal.write(event)

    return write


def _write_json(event: Event) -> None:
    kind = "judged" if isinstance(event, SkippedVerdict) else "token"
    _print_json({"event": kind, **asdict(event)})


def _print_json(line: dict[str, Any]) -> None:
    print(json.dumps({"v": 1, **line}), flush=True)


def _turns(interactive: bool, as_json: bool, style: Style) -> Iterator[str]:
    """What the user says: typed, a line of stdin each, or samples if stdin is empty."""
    if interactive:
        yield from _typed(style)
        return
    some = False
    for line in sys.stdin.buffer:
        some = True
        try:
            said = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            _tell("a line of stdin is not UTF-8 and is left out; convert it, for instance by iconv")
            continue
        if said:
            if not as_json:
                print(f"> {said}", file=sys.stderr, flush=True)
            yield said
    for said in () if some else _SAMPLES:
        if not as_json:
            print(f"> {said}", file=sys.stderr, flush=True)
        yield said


def _typed(style: Style) -> Iterator[str]:
    import readline  # noqa: F401 - gives input() a history and line editing

    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            _tell("Ctrl-D or /quit leaves")
            continue
        except UnicodeDecodeError:
            _tell("that was not UTF-8; check the terminal's encoding")
            continue
        if said:
            yield said


def read_stdin() -> str:
    """All of stdin as text.

    Raises:
        UsageError: it is not UTF-8.
    """
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"stdin is not UTF-8 (byte {error.start + 1}); convert it, for instance by iconv"
        ) from None


def _banner(config: Config, assistant: Assistant) -> str:
    device = config.device.model
    if assistant.session.is_offline:
        where = "no verifier"
    elif config.cloud.url:
        where = f"verifier at {config.cloud.url}"
    else:
        where = f"verifier {config.verifier.model} on this machine"
    return f"uhlm-edge: {device} on the device, {where}, strategy {config.strategy.name}. /help"


def _backend(assistant: Assistant) -> str:
    return f"device: {assistant.device.backend}"


def _tell(text: str) -> None:
    sys.stdout.flush()
    complain(text)
