"""A certificate of one's own: who may read it, what it is for, and a server at home behind it."""

from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ResourceError, UsageError
from uhlm_edge.common.keys import make_certificate

from ..commands import RunningVerifier, run_here

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
KEY = "a-key-that-is-long-enough-0123456789"


def test_the_key_is_its_owners_alone_and_the_certificate_is_for_the_hosts(tmp_path: Path) -> None:
    certificate, key = make_certificate(["server.local", "192.0.2.7", "::1"], tmp_path / "new")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    shown = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-ext", "subjectAltName"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in ("DNS:server.local", "IP Address:192.0.2.7", "IP Address:0:0:0:0:0:0:0:1"):
        assert name in shown


@pytest.mark.parametrize(
    "host", ["https://server.local", "server.local:8787", "a b", "", "x,DNS:evil", "/CN=x"]
)
def test_what_is_no_host_is_refused_and_nothing_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="name or address alone"):
        make_certificate([host], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("precious")
    with pytest.raises(UsageError, match="there already"):
        make_certificate(["server.local"], tmp_path)
    assert (tmp_path / "key.pem").read_text() == "precious"


def test_without_openssl_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="apt install openssl"):
        make_certificate(["server.local"], tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.slow
def test_a_device_at_home_trusts_the_certificate_that_one_command_made(tmp_path: Path) -> None:
    made = run_here(["certificate", "localhost", "127.0.0.1", "--out", str(tmp_path)], tmp_path)
    assert made.code == 0, made.err
    certificate = made.out.strip()
    arguments = ["--tls-certificate", certificate, "--tls-key", str(tmp_path / "key.pem")]
    server = RunningVerifier(tmp_path, 0, KEY, *arguments)
    try:
        ask = ["run", "Hello!", "--strategy", "hlm", "--cloud", server.url, "--max-tokens", "8"]
        ask.append("--require-cloud")
        more = {"UHLM_API_KEY": KEY}
        trusted = run_here(ask, tmp_path, more={**more, "UHLM_CLOUD_CA_FILE": certificate})
        assert trusted.code == 0, trusted.err
        assert trusted.out.strip()
        stranger = run_here(ask, tmp_path, more=more)
        assert stranger.code == 4
        assert "certificate is not trusted" in stranger.err
        assert "set ca_file" in stranger.err
    finally:
        server.stop()


@pytest.mark.slow
def test_a_server_for_others_without_tls_says_what_will_not_work(tmp_path: Path) -> None:
    server = RunningVerifier(tmp_path, 0, KEY, "--host", "0.0.0.0")  # noqa: S104
    assert server.process.stderr is not None
    said = server.process.stderr.readline().decode()
    server.stop()
    assert "devices send no key" in said
    assert "uhlm-edge certificate" in said


@pytest.mark.parametrize("command", ["cloud", "serve"])
def test_files_of_tls_that_cannot_be_used_are_told_before_a_model_is_loaded(
    command: str, tmp_path: Path
) -> None:
    section = {"cloud": "VERIFIER", "serve": "SERVE"}[command]
    no_key, missing = tmp_path / "no.pem", tmp_path / "missing.pem"
    no_key.write_text("nothing\n")
    for certificate, key, told in (
        (missing, "", f"TLS file {missing}: No such file"),
        (no_key, "", f"TLS file {no_key} or its key cannot be used"),
        ("", no_key, "no use without its tls_certificate"),  # it would have spoken plain HTTP
    ):
        more = {f"UHLM_{section}_TLS_CERTIFICATE": str(certificate)}
        more[f"UHLM_{section}_TLS_KEY"] = str(key)
        more |= {"UHLM_DEVICE_MODEL": "none", "UHLM_VERIFIER_MODEL": "none"}
        done = run_here([command, "--port", "0"], tmp_path, more=more)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert told in done.err
