"""What the user types: edited, remembered, completed; several lines can be one prompt."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Complete = Callable[[str], list[str]]
"""What may follow a line that begins with a slash: whole words for its last one."""

_QUOTES = '"""'


def history_file() -> Path:
    """Where prompts are remembered, in the user's state folder."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "uhlm-edge" / "history"


def typed(complete: Complete, history: Path | None, tell: Callable[[str], None]) -> Iterator[str]:
    """Each prompt that is typed or pasted, until Ctrl-D.

    Args:
        complete: for commands.
        history: a file that only its owner can read; None: remember nothing.
        tell: takes one line for the user.
    """
    if os.environ.get("TERM") == "dumb":  # it understands no sequences, and so no editing
        yield from _prompts(input, tell)
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.keys import Keys

    class Commands(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            line = document.text_before_cursor
            if line.startswith("/") and "\n" not in line:
                word = line.rpartition(" ")[2] if " " in line else line
                for choice in complete(line):
                    yield Completion(choice, start_position=-len(word))

    keys = KeyBindings()

    @Condition
    def within_quotes() -> bool:
        text = session.default_buffer.text
        return text.lstrip().startswith(_QUOTES) and text.count(_QUOTES) % 2 == 1

    @keys.add("enter", filter=within_quotes)
    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add(Keys.Vt100MouseEvent)
    def _(event: KeyPressEvent) -> None:
        """Nobody asked for the mouse: it is a colour in what was pasted."""

    kept = _private(history, tell)
    session: PromptSession[str] = PromptSession(
        history=InMemoryHistory() if kept is None else FileHistory(str(kept)),
        completer=Commands(),
        complete_while_typing=False,
        key_bindings=keys,
        enable_open_in_editor=False,
        prompt_continuation="",
    )
    yield from _prompts(session.prompt, tell)


@contextlib.contextmanager
def ctrl_d_kept() -> Iterator[None]:
    """For as long as the context lasts, a Ctrl-D waits for the next prompt as other keys do.

    While nobody reads a line, the terminal itself would take it for the end of one, and nothing of
    it would be left when the prompt comes.
    """
    if sys.platform == "win32" or os.environ.get("TERM") == "dumb":  # its lines are the terminal's
        yield
        return
    import termios

    def set_end(key: bytes) -> bytes:
        modes = termios.tcgetattr(terminal)
        before: bytes = modes[6][termios.VEOF]
        modes[6][termios.VEOF] = key
        termios.tcsetattr(terminal, termios.TCSANOW, modes)
        return before

    terminal = sys.stdin.fileno()
    key = set_end(os.fpathconf(terminal, "PC_VDISABLE").to_bytes(1, "little"))
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it is gone
            set_end(key)


def _prompts(ask: Callable[[str], str], tell: Callable[[str], None]) -> Iterator[str]:
    while True:
        try:
            said = unquoted(ask("> "))
        except EOFError:
            return
        except KeyboardInterrupt:
            tell("Ctrl-D or /bye leaves")
            continue
        except UnicodeDecodeError:
            tell("that was not UTF-8; check the terminal's encoding")
            continue
        if said:
            yield said


def unquoted(text: str) -> str:
    """A prompt without the triple quotes around it."""
    text = text.strip()
    if text.startswith(_QUOTES):
        text = text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n")
    return text


def _private(history: Path | None, tell: Callable[[str], None]) -> Path | None:
    """The file, made so that only its owner can read it; None if that cannot be."""
    if history is None:
        return None
    try:
        history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(history, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600))
        if sys.platform != "win32" and history.stat().st_mode & 0o077:
            history.chmod(0o600)
    except OSError as error:
        tell(f"what you type is not remembered: {history}: {error.strerror}")
        return None
    return history
