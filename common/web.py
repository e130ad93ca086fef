"""What the verifier's server and the device's have in common: how uvicorn is set up."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

__all__ = ["server_config"]


def server_config(
    app: Any, certificate: Path | None, key: Path | None, **more: Any
) -> uvicorn.Config:
    """Settings of a server that logs no request, does not say what it is, and stops in 5 s.

    Args:
        app: ASGI.
        certificate, key: of TLS, PEM files; None: no TLS.
        more: further settings of uvicorn.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    import uvicorn  # an extra; the modules beside this one do without

    config = uvicorn.Config(
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
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the TLS certificate or its key cannot be used: {error}") from None
    return config
