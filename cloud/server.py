"""Run the verifier: listen, answer, stop in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from types import FrameType

import uvicorn

from ..common import listen
from ..common.errors import ResourceError
from ..common.keys import Keys
from ..common.logs import log_to_stderr
from ..common.server import Server
from .app import App
from .guard import guarded_protocol
from .options import VerifierOptions
from .service import Service

LEAST_FILES = 16
"""Files that must still be free to serve: the event loop's own, and a few connections."""


def bind(options: VerifierOptions, keys: Keys) -> socket.socket:
    """Take the address before the model is loaded: a port in use is known at once.

    Raises:
        ConfigError: another address than loopback without a key.
        ResourceError: the address cannot be had.
    """
    return listen.bind(options.host, options.port, keys, "verifier")


def serve(service: Service, options: VerifierOptions, listener: socket.socket) -> None:
    """Answer until told to stop (SIGINT, SIGTERM): running calls finish, new ones get 503.

    Raises:
        ResourceError: too few files can be opened to serve anybody.
    """
    _require_files(listener)
    config = listen.server_config(
        App(service),
        options.tls_certificate,
        options.tls_key,
        http=guarded_protocol(options.head_bytes, options.head_seconds, options.connections),
        ws="none",
        proxy_headers=False,  # `Guard` looks at them
        date_header=False,
        timeout_keep_alive=300,  # a device that is sure for a while need not connect again
    )
    log_to_stderr("uhlm_edge.cloud")
    if options.log_calls:
        log_to_stderr("uhlm_edge.cloud.calls", logging.INFO)
    # A pass that is done must not wait 5 ms for the interpreter while the network is busy.
    sys.setswitchinterval(0.0001)
    try:
        _Server(config, service, options.drain_seconds).run(sockets=[listener])
    finally:
        service.ready = False


def _require_files(listener: socket.socket) -> None:
    """The event loop cannot say in one line that it has no file left; this can."""
    spare: list[int] = []
    try:
        while len(spare) < LEAST_FILES:
            spare.append(os.dup(listener.fileno()))
    except OSError as error:
        raise ResourceError(
            f"only {len(spare)} more files can be opened and {LEAST_FILES} are needed"
            f" ({error.strerror}); raise the limit with `ulimit -n 1024`"
        ) from None
    finally:
        for handle in spare:
            os.close(handle)


class _Server(Server):
    """Drains before it stops: running calls finish, new ones get 503."""

    def __init__(self, config: uvicorn.Config, service: Service, seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._seconds = seconds
        self._end: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._steps = asyncio.create_task(self._service.verifier.driver.run())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._service.verifier.driver.close()
        await self._steps

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._end is not None:  # a second signal means it
            self.should_exit = self._in_haste = True
        self._service.ready = False
        self._end = time.monotonic() + self._seconds

    async def on_tick(self, counter: int) -> bool:
        if self._end is not None:
            is_idle = self._service.verifier.scheduler.open_calls == 0
            self.should_exit |= is_idle or time.monotonic() > self._end
        return await super().on_tick(counter)
