"""`uhlm-edge serve`: from options to a running server on the device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import FrameType

import uvicorn

from ...common.key_file import server_keys
from ...common.keys import Keys
from ...common.listen import bind, is_loopback, server_config, url_of
from ...common.logs import log_to_stderr
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
        ConfigError: another address than loopback without a key, or a key file that others read.
        ModelError: a model is refused.
        ResourceError: the address cannot be had.
    """
    options = config.serve
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
        _Server(settings).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Stops in order when it is told to, and the exit status is 0.

    By itself uvicorn ends the process by the signal once more, before the models are closed and
    what they have read is kept.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit |= self.should_exit  # a second signal means it
        self.should_exit = True


def _notify(text: str) -> None:
    complain(text)
