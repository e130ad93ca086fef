"""`chat` and `run`: read what the user says, show or print what is answered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain

from ...common.errors import CloudError, UhlmError, UsageError
from ...common.logs import log_to_stderr
from ...common.streams import emit
from ...common.text import one_line
from ...configs.config import Config
from ..link.protocol import Link
from ..stats import Stats
from .assemble import NO_GPU, assemble
from .assistant import Assistant
from .binding import GrammarText, bound
from .commands import Commands, Leave
from .keyboard import ctrl_d_kept, history_file, typed
from .piped import lines, turns
from .show import show, tell
from .terminal import Style, counted, fitted, legend, summary

_SAMPLES = (
    "What is the capital of Peru?",
    "Switch the lamp in the kitchen on, please.",
    "I'd like to book a table for two in Albany tonight.",
)


def answer(
    config: Config,
    text: str,
    link: Link | None = None,
    as_json: bool = False,
    verbose: bool = False,
    grammar: GrammarText | None = None,
) -> None:
    """Answer one prompt: the answer on stdout, everything else on stderr.

    Raises:
        UhlmError: see `assemble`; nothing was printed on stdout.
    """
    if not text.strip():
        raise UsageError("the prompt is empty; say something")
    with assemble(config, tell, link) as assistant, bound(assistant, config, grammar):
        if verbose:
            _be_verbose(assistant)
        show(assistant, config, assistant.reply(text), as_json)
        cut = assistant.finish_reason == "length"
        if as_json or assistant.loop is None:
            return
        if Style.of(sys.stdout).off:
            print(_numbers(assistant.loop.stats, cut), file=sys.stderr)
        elif cut:
            n = counted(assistant.loop.stats.tokens, "token")
            tell(f"cut off at {n}; give --max-tokens N for more")


def chat(
    config: Config, link: Link | None = None, as_json: bool = False, verbose: bool = False
) -> None:
    """Turn after turn until the input ends."""
    interactive = sys.stdin.isatty()
    with ctrl_d_kept() if interactive else nullcontext(), assemble(config, tell, link) as assistant:
        status = Style.of(sys.stderr)
        if verbose:
            _be_verbose(assistant)
        if interactive:
            emit(fitted(_banner(config, assistant), sys.stderr), err=True)
            if status.off:
                print(fitted(legend(status), sys.stderr), file=sys.stderr, flush=True)
        elif sys.stderr.isatty() and not as_json:  # input from a pipe, and somebody looks on
            tell(_chosen(config, assistant))

        def say(said: str) -> None:
            _turn(assistant, commands, said, as_json, interactive)

        commands = Commands(assistant, config, say)
        try:
            for said in _said(config, commands) if interactive else _lines(as_json):
                _handle(commands, said, say)
        except Leave:
            pass


def _handle(commands: Commands, said: str, say: Callable[[str], None]) -> None:
    """A command, or something to say. Whatever goes wrong with it, the session goes on."""
    try:
        if not commands.handles(said):
            say(said)
    except CloudError:
        raise  # only if the configuration requires the cloud
    except UhlmError as error:
        tell(str(error))


def _turn(
    assistant: Assistant, commands: Commands, said: str, as_json: bool, interactive: bool
) -> None:
    """One reply, which Ctrl-C stops."""
    config = commands.config
    try:
        events = assistant.reply(said)
        commands.count(show(assistant, config, events, as_json, interactive and not as_json))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        tell("stopped; what was said so far is kept")
    if not as_json and assistant.loop is not None:
        cut = assistant.finish_reason == "length"
        print(_numbers(assistant.loop.stats, cut), file=sys.stderr)


def _said(config: Config, commands: Commands) -> Iterator[str]:
    return typed(commands.completions, history_file() if config.chat.history else None, tell)


def _lines(as_json: bool) -> Iterator[str]:
    """A line of stdin each, or samples if stdin is empty."""
    given = lines(sys.stdin.buffer)
    first = next(given, None)
    for said in _SAMPLES if first is None else turns(chain([first], given), tell):
        yield _echoed(said, as_json)


def _echoed(said: str, as_json: bool) -> str:
    if not as_json:
        print(f"> {one_line(said)}", file=sys.stderr, flush=True)
    return said


def _numbers(stats: Stats, cut: bool) -> str:
    return fitted(summary(stats, Style.of(sys.stderr), cut), sys.stderr)


def _banner(config: Config, assistant: Assistant) -> str:
    if assistant.session.is_offline:
        where = "no verifier"
    elif config.cloud.url:
        where = f"verifier at {config.cloud.url}"
    else:
        where = f"verifier {config.verifier.model} on this machine"
    return f"uhlm-edge: {_chosen(config, assistant)}\n{where} · /help lists what you can do"


def _chosen(config: Config, assistant: Assistant) -> str:
    """What was chosen for this machine, so that nobody waits for one thread unknowingly."""
    _where, *rest = assistant.device.backend.split("; ")
    details = ", ".join(part for part in rest if part != NO_GPU)
    what = f"{config.device.model} on the device" + (f" ({details})" if details else "")
    return f"{what}; strategy {config.strategy.name}"


def _be_verbose(assistant: Assistant) -> None:
    log_to_stderr("uhlm_edge.link")
    tell(f"device layers on {assistant.device.backend}")
