"""Run the verifier: listen, answer, stop in order."""

from __future__ import annotations

import socket
import ssl
from types import FrameType

import uvicorn

from ..common import listen
from ..common.errors import ConfigError
from .app import make_app
from .keys import Keys
from .options import VerifierOptions
from .service import Service

__all__ = ["bind", "serve"]


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
        ConfigError: the certificate or its key cannot be used.
    """
    config = uvicorn.Config(
        make_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        timeout_graceful_shutdown=30,
        timeout_keep_alive=300,  # a device that is sure for a while need not connect again
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the TLS certificate or its key cannot be used: {error}") from None
    server = _Server(config, service)
    service.verifier.scheduler.start()
    try:
        server.run(sockets=[listener])
    finally:
        service.ready = False
        service.verifier.scheduler.close()


class _Server(uvicorn.Server):
    """Says "not ready" from the moment it is told to stop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.ready = False
        super().handle_exit(sig, frame)
