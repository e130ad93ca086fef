"""`uhlm-edge serve`: from options to a running server on the device."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ...common.keys import Keys, server_keys
from ...common.listen import bind, check_tls, is_loopback, server_config, url_of
from ...common.logs import log_to_stderr
from ...common.server import Server
from ...common.streams import complain
from ...configs.config import Config
from ..link.protocol import Link
from .app import make_app
from .hybrid import Hybrid


def serve(
    config: Config, link: Link | None = None, environment: Mapping[str, str] = os.environ
) -> None:
    """Listen, load the models, answer until told to stop (SIGINT, SIGTERM).

    Args:
        config: all options; `[serve]` says where to listen.
        link: to a verifier that is there already; None: as the configuration says.
        environment: of the process, for the key.

    Raises:
        ConfigError: another address than loopback without a key, a key file that others read, or
            files of TLS that cannot be used.
        ModelError: a model is refused.
        ResourceError: the address cannot be had.
    """
    options = config.serve
    check_tls(options.tls_certificate, options.tls_key)
    keys = Keys(server_keys(environment, "UHLM_SERVE_KEY", options.key_file))
    with (
        bind(options.host, options.port, keys, "serve", "UHLM_SERVE_KEY") as listener,
        Hybrid(config, _notify, link, environment) as hybrid,
    ):
        listener.listen(128)
        app = make_app(hybrid, keys, options.queue, is_loopback(options.host))
        settings = server_config(app, options.tls_certificate, options.tls_key)
        log_to_stderr("uhlm_edge.serve")
        url = url_of(listener, options.tls_certificate is not None)
        lock = "" if keys else ", open to every program on this machine (set UHLM_SERVE_KEY)"
        _notify(f"{hybrid.device} at {url}{lock}")
        if keys and not is_loopback(options.host) and options.tls_certificate is None:
            _notify(
                "without TLS the key and every word can be read on the way: set tls_certificate "
                "and tls_key in [serve] (`uhlm-edge certificate HOST` makes both)"
            )
        Server(settings).run(sockets=[listener])


def _notify(text: str) -> None:
    complain(text)
