"""A server around the demo pair: in a thread of this process, or as the command."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import uvicorn

from uhlm_edge.common.keys import Keys
from uhlm_edge.common.listen import bind, url_of
from uhlm_edge.edge.api.app import make_app
from uhlm_edge.edge.api.hybrid import Hybrid

from ...commands import COMMAND, environment

KEY = "a-key-of-the-tests"


@dataclass
class Running:
    """Where a server listens, and what it serves."""

    url: str
    hybrid: Hybrid

    def client(self, key: str = KEY) -> openai.OpenAI:
        """OpenAI's own client; close it."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@contextmanager
def in_thread(hybrid: Hybrid, key: str = KEY, queue: int = 8) -> Iterator[Running]:
    """The app behind a real socket."""
    keys = Keys([key] if key else [])
    with bind("127.0.0.1", 0, keys, "serve") as listener:
        listener.listen()
        app = make_app(hybrid, keys, queue)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Running(url_of(listener), hybrid)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def as_command(home: Path, *arguments: str, **more: str) -> Iterator[str]:
    """The URL of `uhlm-edge serve`."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *arguments],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environment(home, **more),
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline()]
        while lines[-1] and "http://" not in lines[-1]:
            lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
        yield "http://" + lines[-1].split("http://")[1].split(",")[0].strip()
    finally:
        process.terminate()
        process.communicate(timeout=60)
