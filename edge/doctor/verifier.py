"""The verifier: can it be reached, is it the right one, and how far away is it?

No text of the user is sent: a name is asked for, and zeros measure the way up.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import requests

from ...common.errors import CloudError
from ...wire.messages import Info
from ..link.http import HttpLink
from ..link.protocol import Deadline
from .finding import Finding

_ROUND_TRIPS = 5
_ZEROS = 64 << 10  # bytes; half a second at 1 Mbit/s
_SLOW = 0.3  # seconds: from there a call costs more than most drafts


@dataclass(frozen=True)
class Measured:
    """What the way to a verifier is like. None: not measured."""

    info: Info
    round_trip: float | None
    """Seconds, the smallest of five over one connection."""
    upload: float | None
    """Bits per second, of 64 KiB."""


def measure(url: str, key: str | None, ca_file: str | Path | None, timeout: float) -> Measured:
    """Ask and time it.

    Raises:
        CloudError: it cannot be reached, or is no verifier.
        ConfigError: the URL is none.
    """
    link = HttpLink(url, key, timeout, ca_file)
    info = link.info(Deadline(max(timeout, 5.0)))
    try:
        return Measured(info, *_way(link.url, key, ca_file, timeout))
    except requests.exceptions.RequestException:
        return Measured(info, None, None)  # it answered once; the figures are only a help


def _way(
    url: str, key: str | None, ca_file: str | Path | None, timeout: float
) -> tuple[float, float | None]:
    with requests.Session() as http:
        http.trust_env = False
        if ca_file:
            http.verify = str(ca_file)

        def seconds(method: str, path: str, body: bytes = b"", **headers: str) -> float:
            begun = time.perf_counter()
            http.request(
                method, url + path, data=body or None, headers=headers,
                timeout=max(timeout, 10.0), allow_redirects=False,
            )  # fmt: skip
            return time.perf_counter() - begun

        seconds("GET", "/health")  # the connection itself
        round_trip = min(seconds("GET", "/health") for _ in range(_ROUND_TRIPS))
        headers = {"X-Session-Id": secrets.token_hex(16), "Content-Type": "application/msgpack"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        extra = seconds("POST", "/v1/verify", bytes(_ZEROS), **headers) - round_trip
    return round_trip, 8 * _ZEROS / extra if extra > 0.2 * round_trip else None


def check_verifier(measured: Measured | CloudError, required: bool) -> Finding:
    """Reachable, of which level, how far."""
    if isinstance(measured, CloudError):
        text = f"{measured}; the device answers alone"
        advice = "start it, or give the right --cloud URL and key"
        return Finding("verifier", "fail" if required else "warn", text, advice)
    info, round_trip, upload = measured.info, measured.round_trip, measured.upload
    facts = {
        **info.model_dump(include={"model", "level", "version", "n_ctx"}),
        "round_trip_ms": None if round_trip is None else round(1e3 * round_trip, 2),
        "upload_bits_per_second": None if upload is None else round(upload),
    }
    text = f"{info.model}, level {info.level}"
    if round_trip is not None:
        text += f", round trip {1e3 * round_trip:.3g} ms"
    text += f", upload {upload / 1e6:.3g} Mbit/s" if upload else ", upload too quick to measure"
    if round_trip is not None and round_trip > _SLOW:
        advice = "--strategy spec --pipelined asks for many tokens in one call"
        return Finding("verifier", "warn", f"{text}: far away", advice, facts)
    if info.level < 3:
        advice = "exact strategies need level 3: run `uhlm-edge cloud` as the verifier"
        return Finding("verifier", "warn", text, advice, facts)
    return Finding("verifier", "ok", text, "", facts)


def check_vocabulary(info: Info, fingerprint: tuple[int, str] | None) -> Finding:
    """Do both models mean the same by each id?"""
    if fingerprint is None:
        return Finding("vocabulary", "warn", "not compared: the device's model did not load")
    if tuple(fingerprint) == tuple(info.fingerprint):
        return Finding("vocabulary", "ok", f"the same {fingerprint[0]:,} tokens on both sides")
    text = (
        f"{fingerprint[0]:,} tokens on the device, {info.fingerprint[0]:,} on the verifier, and "
        "they do not mean the same"
    )
    advice = "use two models of one family: `uhlm-edge models list` names some"
    return Finding("vocabulary", "fail", text, advice)
