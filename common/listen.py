"""Take an address to listen on, and never one that strangers reach without a key."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, ResourceError
from .keys import Keys

if TYPE_CHECKING:
    import uvicorn


def bind(
    host: str, port: int, keys: Keys, section: str, variable: str = "UHLM_API_KEY"
) -> socket.socket:
    """A socket at an address; with port 0 at any free one. It does not listen yet.

    Args:
        host: name or address.
        port: 0 to 65535.
        keys: who is let in.
        section: of the configuration, and the environment variable, that a key can come from.

    Raises:
        ConfigError: another address than loopback without a key.
        ResourceError: the address cannot be had.
    """
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached by others, so this server wants a key: set {variable}, or "
            f"key_file in the [{section}] section"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another with --port"
        ) from None
    return listener


def is_loopback(host: str) -> bool:
    """Does only this machine reach it?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url_of(listener: socket.socket, tls: bool = False) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{where}:{port}"


def check_tls(certificate: Path | None, key: Path | None) -> None:
    """Look at the files before a model is loaded.

    Raises:
        ConfigError: they cannot be used, or there is a key without a certificate.
    """
    if certificate is None:
        if key is not None:
            raise ConfigError(f"a TLS key ({key}) is of no use without its tls_certificate")
        return
    for file in (certificate, key or certificate):
        try:
            file.read_bytes()
        except OSError as error:
            raise ConfigError(f"TLS file {file}: {error.strerror}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise ConfigError(f"TLS file {certificate} or its key cannot be used: {error}") from None


def server_config(
    app: Any, certificate: Path | None, key: Path | None, **more: Any
) -> uvicorn.Config:
    """Settings of a server that logs no request, does not say what it is, and stops in 5 s.

    Args:
        app: ASGI.
        certificate, key: of TLS, PEM files; None: no TLS.
        more: further settings of uvicorn.
    """
    import uvicorn  # an extra; the rest of this module does without

    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        **more,
    )
