"""Secrets of a server: its API keys, and the key of its certificate.

API keys come from a file that only its owner can read, and are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .errors import ConfigError, ResourceError, UsageError

MIN_KEY = 16
"""Characters of the shortest key: fewer can be guessed."""

_MOST = 1 << 16  # bytes of a file
DAYS = 825  # what Apple's devices take at most


class Keys:
    """The keys that are let in; none at all lets everybody in (loopback only)."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [_hash(key) for key in keys if key]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def __repr__(self) -> str:
        return f"Keys({len(self._hashes)})"

    def owner(self, authorization: str | None) -> str | None:
        """Who sent this `authorization` header: an opaque name, or None if nobody known."""
        if not self._hashes:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        given = _hash(key.strip())
        found = None
        for known in self._hashes:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = known.hex()
        return found if scheme.lower() == "bearer" else None


def read_key_file(path: Path) -> list[str]:
    """The keys in a file, at least one, one a line; lines that begin with # are remarks.

    Raises:
        ConfigError: it cannot be read, is no plain file, can be read by others than its owner,
            holds no key, or one that is too short or cannot travel in a header.
    """
    try:
        content = _read(path)
        lines = [line.strip() for line in content.decode("utf-8").splitlines()]
    except FileNotFoundError:
        raise ConfigError(f"key file {path} not found") from None
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"key file {path}: is no text") from None
    keys = {i: line for i, line in enumerate(lines, 1) if line and not line.startswith("#")}
    if not keys:
        raise ConfigError(f"key file {path} holds no key; write one into it, or do not name it")
    for i, key in keys.items():
        _check(key, f"key file {path}: the key in line {i}")
    return list(keys.values())


def server_keys(environment: Mapping[str, str], variable: str, file: Path | None) -> list[str]:
    """The keys that a server lets in: that of a variable, then those of a file.

    Raises:
        ConfigError: see `read_key_file`; or that of the variable is as wrong.
    """
    given = [environment[variable]] if environment.get(variable) else []
    for key in given:
        _check(key, f"the key in {variable}")
    return given if file is None else given + read_key_file(file.expanduser())


def _check(key: str, where: str) -> None:
    if len(key) < MIN_KEY:
        raise ConfigError(
            f"{where} is shorter than {MIN_KEY} characters; make one with: openssl rand -hex 32"
        )
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(f"{where} is none: use letters and digits only")


def _read(path: Path) -> bytes:
    """The content; without waiting for whoever would write to a pipe, and not without end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError(f"key file {path}: is no plain file")
        if os.name == "posix" and about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"key file {path} can be read by others; run: chmod 600 {path}")
        if about.st_size > _MOST:
            raise ConfigError(f"key file {path}: is too large to hold keys")
        return os.read(handle, _MOST)
    finally:
        os.close(handle)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def make_certificate(hosts: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """Write certificate.pem, for everyone, and key.pem, for its owner alone, by openssl.

    Args:
        hosts: names and addresses by which devices reach the server.
        folder: where both go; it is made if it is not there.

    Returns:
        The certificate, which is also what a device trusts (`ca_file`), and its key.

    Raises:
        UsageError: a host is none, or one of the files is there already.
        ResourceError: openssl is not installed or fails, or the folder cannot be written to.
    """
    import subprocess  # no device needs it

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
