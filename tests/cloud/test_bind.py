"""Which addresses need a key."""

from __future__ import annotations

import pytest

from uhlm_edge.cloud.options import VerifierOptions
from uhlm_edge.cloud.server import bind
from uhlm_edge.common.errors import ConfigError, ResourceError
from uhlm_edge.common.keys import Keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.org"])  # noqa: S104
def test_an_address_that_others_reach_wants_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="wants a key"):
        bind(VerifierOptions(host=host, port=0), Keys())


def test_this_machine_needs_none_and_a_port_in_use_is_said_at_once() -> None:
    with bind(VerifierOptions(port=0), Keys()) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        listener.listen()
        with pytest.raises(ResourceError, match=f"port {port}.*--port"):
            bind(VerifierOptions(port=port), Keys())
