"""The demo's verifier: the same server as `uhlm-edge cloud`, there for this process alone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from uhlm_edge.common.errors import Refused, Unreachable
from uhlm_edge.edge.chat.demo import DemoVerifier
from uhlm_edge.edge.link.http import HttpLink
from uhlm_edge.edge.link.protocol import Deadline

ARGUMENTS = ["--profile", "demo"]
pytestmark = pytest.mark.slow


def test_it_answers_whoever_has_the_key_and_ends_with_the_context() -> None:
    with DemoVerifier(ARGUMENTS) as verifier:
        link = HttpLink(verifier.url, verifier.key)
        assert "demo-llm" in link.info(Deadline(60)).model
        with pytest.raises(Refused):
            HttpLink(verifier.url).info(Deadline(60))
        with pytest.raises(Refused):
            HttpLink(verifier.url, "0" * 32).info(Deadline(60))
        link.reset()
    with pytest.raises(Unreachable):
        HttpLink(verifier.url, verifier.key).info(Deadline(1))


def test_it_listens_before_the_model_is_loaded_and_on_loopback_alone() -> None:
    with DemoVerifier(ARGUMENTS) as verifier:
        host, port = verifier.url.removeprefix("http://").split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=1).close()


def test_two_demos_do_not_meet() -> None:
    with DemoVerifier(ARGUMENTS) as one, DemoVerifier(ARGUMENTS) as other:
        assert one.url != other.url
        assert one.key != other.key
        with pytest.raises(Refused):
            HttpLink(one.url, other.key).info(Deadline(60))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_its_key_is_not_among_its_arguments() -> None:
    with DemoVerifier(ARGUMENTS) as verifier:
        arguments = Path(f"/proc/{verifier.pid}/cmdline").read_bytes()
        assert verifier.key.encode() not in arguments
        HttpLink(verifier.url, verifier.key).info(Deadline(60))
