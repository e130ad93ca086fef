"""The key goes to the verifier, in its header, and nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from uhlm_edge.common.errors import CloudError, ConfigError
from uhlm_edge.edge.link.http import HttpLink
from uhlm_edge.edge.link.protocol import Deadline
from uhlm_edge.wire.messages import Conflict, Reply, Request, prefix_hash

from .raw_server import RawServer, http

KEY = "sk-canary-0123456789"
SESSION = "ab" * 16
V = 1000
ASKED = Request(7, 3, prefix_hash([1, 2, 3]), [4], [9], bonus=1)
GOOD = Reply(7, 3, 0, [5], [0.25], 5, distributions=[], binding=ASKED.binding(SESSION))
OK = http(200, GOOD.pack())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def call(server: RawServer, key: str) -> Reply | Conflict:
    return HttpLink(server.url, key).verify(SESSION, ASKED, V, Deadline(20))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "http://192.0.2.1:8787",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "http://[2001:db8::1]:8787",
    ],
)
def test_a_key_is_never_sent_in_the_clear_to_another_machine(url: str) -> None:
    with pytest.raises(ConfigError, match="never sent over plain http") as caught:
        HttpLink(url, KEY)
    assert KEY not in str(caught.value)
    HttpLink(url)
    HttpLink(url.replace("http:", "https:"), KEY)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://LOCALHOST:1", "http://[::1]:1"])
def test_a_key_may_go_to_this_machine(url: str) -> None:
    HttpLink(url, KEY)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org", "ftp://example.org", "http://", "http://a:99999", "http://a:x",
        "http://a?b", f"http://user:{KEY}@localhost:1", "http://[::1",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpLink(url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["", KEY + "\n", KEY + "\r\nX: y", "ключ", "a b"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpLink("https://example.org", key)
    assert KEY not in str(caught.value)
    assert "ключ" not in str(caught.value)


def test_the_key_goes_nowhere_but_into_the_header(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    for answer in (http(401), http(500), http(503), OK[:-2], b"nonsense", http(200, b"x"), OK):
        with RawServer([answer]) as server:
            link = HttpLink(server.url, KEY, sleep=lambda _: None)
            try:
                link.verify(SESSION, ASKED, V, Deadline(0.3))
            except CloudError as error:
                seen.append(f"{error} {error!r}")
            assert f"Authorization: Bearer {KEY}".encode() in server.requests[0]
            seen.append(repr(link) + str(link))
    assert not any(KEY in text for text in (*seen, caplog.text))


def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer([OK]) as proxy, RawServer([OK]) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert call(server, key=KEY) == GOOD
        assert (proxy.connections, server.connections) == (0, 1)


def test_no_netrc_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login me password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with RawServer([OK]) as server:
        HttpLink(server.url).verify(SESSION, ASKED, V, Deadline(20))
    assert b"authorization" not in server.requests[0].lower()
