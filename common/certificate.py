"""A certificate of one's own, for a server at home: made by openssl, trusted where it is copied."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import ResourceError, UsageError

DAYS = 825  # what Apple's devices take at most


def make_certificate(hosts: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """Write certificate.pem, for everyone, and key.pem, for its owner alone.

    Args:
        hosts: names and addresses by which devices reach the server.
        folder: where both go; it is made if it is not there.

    Returns:
        The certificate, which is also what a device trusts (`ca_file`), and its key.

    Raises:
        UsageError: a host is none, or one of the files is there already.
        ResourceError: openssl is not installed or fails, or the folder cannot be written to.
    """
    if not hosts:
        raise UsageError("give the name or address by which devices reach the server")
    names = ",".join(_alternative(host) for host in hosts)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    for path in (certificate, key):
        if path.exists():
            raise UsageError(f"{path} is there already; remove it or choose another --out")
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", str(DAYS), "-subj", f"/CN={hosts[0]}",
        "-addext", f"subjectAltName={names}",
        "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
        "-addext", "extendedKeyUsage=serverAuth",
        "-out", str(certificate), "-keyout", str(key),
    ]  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # It must never be readable for others, not even while it is written.
        os.close(os.open(key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)  # noqa: S603
    except FileNotFoundError:
        key.unlink(missing_ok=True)
        raise ResourceError("openssl is not installed; run: apt install openssl") from None
    except subprocess.CalledProcessError as error:
        key.unlink(missing_ok=True)
        said = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ResourceError(f"openssl failed: {said[-1] if said else error.returncode}") from None
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written to ({error.strerror})") from None
    return certificate, key


def _alternative(host: str) -> str:
    """A subject alternative name as openssl writes it."""
    try:
        return f"IP:{ipaddress.ip_address(host.strip('[]'))}"
    except ValueError:
        pass
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", host) or len(host) > 64:
        raise UsageError(f"{host}: give a name or address alone, such as server.local or 192.0.2.1")
    return f"DNS:{host}"
