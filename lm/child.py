"""Code that somebody else wrote runs in a child process, which the system stops where it must.

A chat template and a grammar can take hours, all memory or the whole process inside one C call.
The child has no key and no variable of ours in its environment, and is started again when it was
stopped. It answers requests one after another, and limits its own time and memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..common.errors import ResourceError
from .sandbox import Refused, read_message, write_message

_PATIENCE = 30.0  # seconds, whoever takes them
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TZ")


class Child:
    """A child process that answers, started at once.

    Args:
        code: what it runs; `sys.path` of this process is JSON in its first argument.
        arguments: the others.
        first: what it is asked first, each time that it is started.
        purpose: what it is for, in messages: "render the chat template".

    Raises:
        Refused: it does not take the first request.
        ResourceError: no process can be started.
    """

    def __init__(
        self, code: str, arguments: Sequence[str], first: Mapping[str, Any], purpose: str
    ) -> None:
        self._command = [sys.executable, "-IS", "-c", code, json.dumps(sys.path), *arguments]
        self._first, self._purpose = first, purpose
        self._lock = threading.Lock()
        self._stop: weakref.finalize[Any, Any] | None = None
        with self._lock:
            self._start()

    def ask(self, request: Mapping[str, Any]) -> bytes:
        """The answer.

        Raises:
            Refused: it says why not, or was stopped.
            ResourceError: no process can be started.
        """
        with self._lock:
            if self._stop is None or not self._stop.alive:
                self._start()
            return self._ask(request)

    def close(self) -> None:
        """End it. Twice is fine."""
        if self._stop is not None:
            self._stop()

    def _start(self) -> None:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- this interpreter and our own code
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, "OPENBLAS_NUM_THREADS": "1"},  # its buffers are memory, one a core
                start_new_session=True,  # Ctrl-C comes here first, and from here to the child
            )
        except OSError as error:
            raise ResourceError(
                f"no process can be started to {self._purpose}: {error.strerror}"
            ) from error
        self._stop = weakref.finalize(self, _kill, self._process)
        self._ask(self._first)

    def _ask(self, request: Mapping[str, Any]) -> bytes:
        """The answer; whatever is wrong, Ctrl-C too, ends the child."""
        process, answer = self._process, None
        assert process.stdin is not None  # noqa: S101 -- they were asked for
        assert process.stdout is not None  # noqa: S101
        patience = threading.Timer(_PATIENCE, process.kill)
        patience.daemon = True
        patience.start()
        try:
            with suppress(OSError):  # it is gone, or was killed: no answer either way
                write_message(process.stdin, json.dumps(request).encode())
                answer = read_message(process.stdout)
        finally:
            patience.cancel()
            if answer is None and self._stop is not None:
                self._stop()
        if answer is None:
            raise Refused("takes too much time or memory; it was stopped")
        if answer[:1] != b"+":
            raise Refused(answer[1:].decode("utf-8", "surrogatepass"))
        return answer[1:]


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent is not
            if pipe is not None:
                pipe.close()
