"""The demo's verifier: `uhlm-edge cloud` in a child process that ends with this one."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from ...common.errors import ResourceError

_PROCESSES = "UHLM_VERIFIER_ENGINE_PROCESSES"  # the device works beside it
_NEEDED = ("uvicorn", "httptools", "prometheus_client")


class DemoVerifier:
    """Starts at once and is asked later: calls wait in the socket until the model is loaded.

    The child holds the listening socket and a pipe from this process; when the pipe closes, however
    this process ended, it stops.

    Args:
        arguments: further arguments of `uhlm-edge cloud`.
        settings: variables that the child gets beside those of this process.

    Raises:
        ResourceError: it is `missing`.
    """

    def __init__(
        self, arguments: Sequence[str] = (), settings: Mapping[str, str] | None = None
    ) -> None:
        if missing := self.missing():
            raise ResourceError(missing)
        self.key = secrets.token_hex(16)  # other users of this machine share its loopback
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            command = [sys.executable, "-m", "uhlm_edge.cli", "cloud", *arguments]
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*command, "--fd", str(listener.fileno()), "--until-eof"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                env={**os.environ, **(settings or {}), _PROCESSES: "2", "UHLM_API_KEY": self.key},
                start_new_session=True,  # Ctrl-C is for the reply, not for the verifier
            )

    @staticmethod
    def missing() -> str | None:
        """Why it cannot be started here, in one line; None if it can."""
        if os.name != "posix":
            return "the demo verifier needs Linux or macOS; give the URL of one with --cloud"
        if any(importlib.util.find_spec(name) is None for name in _NEEDED):
            return "the demo verifier is not installed; run: pip install 'uhlm-edge[cloud]'"
        return None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> DemoVerifier:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
