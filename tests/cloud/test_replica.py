"""A replica of the cluster without a cluster: its routes, key and health. In a process of its own,
since importing ray warns, and a warning is an error here."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]

SCRIPT = """
import asyncio
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn
from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.ray.application import Replica
from uhlm_edge.common.errors import ConfigError
from uhlm_edge.lm.engines.options import EngineOptions

options = VerifierOptions(engine=EngineOptions(n_threads=1, n_threads_batch=1))
try:
    Replica(options, {})
except ConfigError as error:
    print("no key:", error)
replica = Replica(options, {"UHLM_API_KEY": "k" * 32})
replica.check_health()
app = replica.__serve_build_asgi_app__()

async def ask(path, headers):
    said = []
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        said.append(message)
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    return said[0]["status"]

async def main():
    life = LifespanOn(Config(app, lifespan="on", log_config=None))  # as Ray does it
    await life.startup()
    assert not life.should_exit
    key = [(b"authorization", b"Bearer " + b"k" * 32)]
    print(await ask("/health", []), await ask("/v1/info", []), await ask("/v1/info", key))
    await life.shutdown()

asyncio.run(main())
replica.__del__()
print("closed")
"""


def test_a_replica_answers_as_any_verifier_does_and_wants_a_key() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("no key: a cluster's verifier wants a key")
    assert lines[1:] == ["200 401 200", "closed"]
