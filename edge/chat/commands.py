"""What the user can do in a chat beside saying something: commands that begin with a slash."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import DataError, UsageError
from ...common.files import atomic_output, read_bounded
from ...common.streams import emit
from ...common.text import harmless, human_bytes, one_line
from ...configs.config import Config
from ...configs.layers import changed, keys
from ..policy.strategy import STRATEGIES
from .adjust import adjust
from .assistant import Assistant
from .show import Shown, explained, tell
from .terminal import Style, counted, fitted, size_of, summary

_THRESHOLDS = ("averse", "prone", "risk", "adaptive")
_AT_START = {("strategy", "partner"), ("chat", "history")}
_LONGEST = 16_000_000  # bytes of a saved conversation


class Leave(Exception):
    """The user wants to go."""


@dataclass(frozen=True)
class _Command:
    usage: str
    help: str
    run: Callable[[str], None]

    @property
    def name(self) -> str:
        return self.usage.split()[0]


class Commands:
    """The commands of one chat, and what they act on.

    Args:
        assistant: of the chat.
        config: as it was made; commands make others of it.
        say: answers a prompt.
    """

    def __init__(self, assistant: Assistant, config: Config, say: Callable[[str], None]) -> None:
        self.config = config
        self.last = Shown()
        self._assistant = assistant
        self._say = say
        commands = (
            _Command("/help", "this list", self._help),
            _Command("/stats", "what the last reply and the session cost", self._stats),
            _Command("/why", "the last reply token by token: u, verdict, what happened", self._why),
            _Command("/strategy NAME", "when to ask the cloud", self._strategy),
            _Command("/threshold T", "a number, averse, prone, risk or adaptive", self._threshold),
            _Command("/set KEY VALUE", "any key of the configuration", self._set),
            _Command("/show [KEY]", "the configuration as it is now", self._show),
            _Command("/system [TEXT]", "a system message; nothing: none", self._system),
            _Command("/save FILE", "keep the conversation", self._save),
            _Command("/load FILE", "go on with one that was kept", self._load),
            _Command("/clear", "begin a new conversation", self._clear),
            _Command("/retry", "answer the last prompt anew", self._retry),
            _Command("/bye", "leave (or Ctrl-D)", self._bye),
        )
        self._commands = {command.name: command for command in commands}
        self._also = {"/reset": "/clear", "/quit": "/bye", "/exit": "/bye", "exit": "/bye"}
        self._also["quit"] = "/bye"
        self.replies = self.tokens = self.uploads = self.bytes_up = 0

    def handles(self, said: str) -> bool:
        """Is it a command, and not something to say? Does it if so.

        Raises:
            Leave: that was the command.
            UhlmError: it cannot be done.
        """
        name, _, rest = said.partition(" ")
        if said in self._also or (name.startswith("/") and "\n" not in said):
            name = self._also.get(name, name)
            if name not in self._commands:
                raise UsageError(f"no command {one_line(name, 40)}; /help lists them")
            self._commands[name].run(rest.strip())
            return True
        return False

    def completions(self, line: str) -> list[str]:
        """What the last word of a line may become."""
        name, space, rest = line.partition(" ")
        if not space:
            return [known for known in self._commands if known.startswith(name)]
        offered: tuple[str, ...] = ()
        if name == "/strategy":
            offered = STRATEGIES
        elif name == "/threshold":
            offered = _THRESHOLDS
        elif name in ("/set", "/show") and " " not in rest:
            offered = tuple(".".join(key) for key in keys())
        return [choice for choice in offered if choice.startswith(rest)]

    def count(self, shown: Shown) -> None:
        """A reply was shown."""
        self.last = shown
        if self._assistant.loop is not None:
            stats = self._assistant.loop.stats
            self.replies += 1
            self.tokens += stats.tokens
            self.uploads += stats.uploads
            self.bytes_up += stats.uplink_bytes

    def _help(self, _: str) -> None:
        width = max(len(command.usage) for command in self._commands.values())
        lines = [f"{c.usage:{width}}  {c.help}" for c in self._commands.values()]
        lines.append(f"{'Ctrl-C':{width}}  stop the reply")
        lines.append(f'{"Alt-Enter":{width}}  a new line in a prompt; so does Enter after """')
        _print("\n".join(lines), indent=width + 2)

    def _stats(self, _: str) -> None:
        loop = self._assistant.loop
        if loop is None:
            raise UsageError("nothing was answered yet")
        replies = f"{self.replies} {'reply' if self.replies == 1 else 'replies'}"
        counts = f"{counted(self.tokens, 'token')} · {counted(self.uploads, 'upload')}"
        _print(f"last reply  {summary(loop.stats, Style())}", indent=12)
        _print(f"session     [{replies} · {counts} · {human_bytes(self.bytes_up)} up]", indent=12)
        if self._assistant.budget is not None:
            for line in self._assistant.budget.lines():
                _print(line)

    def _why(self, _: str) -> None:
        if not self.last.tokens:
            raise UsageError("nothing was answered yet")
        assistant = self._assistant
        drafts = {t.index: text for t in self.last.tokens if (text := assistant.draft_text(t))}
        by_u = "reward" not in assistant.strategy.policy.needs
        threshold = assistant.loop.stats.threshold if assistant.loop and by_u else None
        size = size_of(sys.stderr)
        width = None if size is None else size[0]
        for line in explained(self.last.tokens, self.last.verdicts, drafts, threshold, width):
            _print(line)

    def _strategy(self, name: str) -> None:
        if not name:
            others = ", ".join(self._assistant.strategies)
            _print(f"strategy {self.config.strategy.name}; others: {others}")
            return
        self._change(("strategy", "name"), name)

    def _threshold(self, value: str) -> None:
        if not value:
            threshold = self._assistant.threshold
            _print(f"threshold {'none' if threshold is None else format(threshold, '.3g')}")
            return
        self._change(("strategy", "threshold"), value)

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not value.strip():
            raise UsageError("write /set KEY VALUE, such as /set sampler.temperature 0.2")
        key = tuple(name.split("."))
        if key in keys() and (key[0] not in ("strategy", "sampler", "chat") or key in _AT_START):
            raise UsageError(f"{name} cannot be changed in a chat; start another one with it")
        self._change(key, value.strip())

    def _change(self, key: tuple[str, ...], value: str) -> None:
        config, old = changed(self.config, {key: value}, "here"), self.config.strategy.threshold
        adjust(self._assistant, config)
        self.config = config
        tell(f"{'.'.join(key)} = {value}")
        if old is not None and config.strategy.threshold is None:
            tell(f"the threshold {old} was of another score: it does not count any more")

    def _show(self, name: str) -> None:
        plain = self.config.model_dump(mode="json")
        found = [key for key in keys() if ".".join(key).startswith(name)]
        if not found:
            raise UsageError(f"no key begins with {name}; /show lists them all")
        for key in found:
            value: Any = plain
            for part in key:
                value = value[part]
            _print(f"{'.'.join(key)} = {value}")

    def _system(self, text: str) -> None:
        config = changed(self.config, {("chat", "system"): text}, "here")
        adjust(self._assistant, config)
        self.config = config
        tell("the system message is set" if text else "no system message")

    def _save(self, name: str) -> None:
        path = _path(name, "/save")
        messages = [dict(message) for message in self._assistant.messages]
        content = {"v": 1, "system": self.config.chat.system, "messages": messages}
        with atomic_output(path) as part:
            part.touch(mode=0o600)
            part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
        tell(f"{len(messages)} messages kept in {path}")

    def _load(self, name: str) -> None:
        path = _path(name, "/load")
        system, messages = _read(path)
        config = changed(self.config, {("chat", "system"): system}, "here")
        adjust(self._assistant, config)
        self.config = config
        self._assistant.messages[:] = messages
        tell(f"{len(messages)} messages from {path}")
        for message in messages[-2:]:
            _print(f"{'> ' if message['role'] == 'user' else ''}{harmless(message['content'])}")

    def _clear(self, _: str) -> None:
        self._assistant.reset()
        tell("a new conversation")

    def _retry(self, _: str) -> None:
        messages = self._assistant.messages
        asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
        if not asked:
            raise UsageError("nothing was asked yet")
        said = messages[asked[-1]]["content"]
        del messages[asked[-1] :]
        self._say(said)

    def _bye(self, _: str) -> None:
        raise Leave


def _path(name: str, command: str) -> Path:
    if not name:
        raise UsageError(f"write {command} FILE")
    return Path(name).expanduser()


def _read(path: Path) -> tuple[str, list[Any]]:
    """System message and messages of a conversation that was kept."""
    try:
        content: Any = json.loads(read_bounded(path, _LONGEST))
        messages = content["messages"]
        system = content["system"]
        fits = isinstance(system, str) and all(
            set(m) == {"role", "content"}
            and m["role"] in ("user", "assistant")
            and isinstance(m["content"], str)
            for m in messages
        )
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise DataError(f"{path} holds no conversation that /save wrote")
    return system, messages


def _print(text: str, indent: int = 2) -> None:
    emit(fitted(text, sys.stderr, indent), err=True)
