"""Run the verifier: listen, answer, stop in order."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from types import FrameType

import uvicorn

from ..common.errors import ConfigError, ResourceError
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
    if not keys and not _is_loopback(options.host):
        raise ConfigError(
            f"{options.host} can be reached by others, so the verifier wants a key: set "
            "UHLM_API_KEY, or key_file in the [verifier] section"
        )
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}; "
            "choose another with --port"
        ) from None
    return listener


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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
