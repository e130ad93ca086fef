"""`uhlm-edge cloud`: from options to a running verifier."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Mapping

from ..common.keys import Keys, server_keys
from ..common.listen import check_tls, is_loopback, url_of
from ..common.streams import complain
from ..models.resolve import find_model
from .options import VerifierOptions
from .server import bind, serve
from .service import load_service


def run_verifier(
    options: VerifierOptions,
    fd: int | None = None,
    until_eof: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Listen, load the model, answer until told to stop.

    Args:
        options: the [verifier] section.
        fd: a listening socket made by a parent process.
        until_eof: stop when stdin closes: when the parent is gone.
        environment: of the process, for the key.

    Raises:
        ConfigError: another address than loopback without a key, a key file that others read, or
            files of TLS that cannot be used.
        ModelError: the model is refused.
        ResourceError: the address cannot be had.
    """
    keys = Keys(server_keys(environment, "UHLM_API_KEY", options.key_file))
    check_tls(options.tls_certificate, options.tls_key)
    listener = bind(options, keys) if fd is None else socket.socket(fileno=fd)
    with listener:
        listener.listen(128)
        service = load_service(find_model(options.model), options, keys)
        if until_eof:
            threading.Thread(target=_stop_at_eof, name="uhlm-parent", daemon=True).start()
        if fd is None:
            key = (
                "" if keys else ", open to every program on this machine (set UHLM_API_KEY to lock)"
            )
            url = url_of(listener, options.tls_certificate is not None)
            complain(f"{service.model_name} at {url}{key}")
            if keys and not options.tls_certificate and not is_loopback(options.host):
                complain(
                    "without TLS, keys and texts can be read on their way, and devices send no key:"
                    " give --tls-certificate and --tls-key (`uhlm-edge certificate HOST` makes"
                    " both), or put a TLS proxy in front"
                )
            complain(service.backend)
        serve(service, options, listener)


def _stop_at_eof() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
