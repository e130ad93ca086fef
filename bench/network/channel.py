"""A fading uplink: how long an upload takes, and what that makes of throughput.

Uplink rate W log2(1 + SNR |h|^2) (arXiv 2412.12687), with |h|^2 = 1 or exponential with mean 1
(Rayleigh). Pure functions; compute times and byte counts are measured elsewhere and come in as
`StrategyCost`.

Under Rayleigh fading the mean of 1/rate diverges: near |h|^2 = 0 the rate is proportional to
|h|^2, whose density there is 1, and the integral of 1/x diverges. So "the mean upload time" needs
a rule. Two are offered:

- `ergodic` (default): bits / E[rate], the time of a transmission coded over many fades. Finite,
  closed form, and the rule under which the published figures can be compared.
- `block`: one fade per upload. A fade below the `outage` quantile carries nothing: the device
  waits one coherence time and tries again. The mean is over the fades above it. With small
  uploads, shorter than a fade, this is the harder and more honest case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...common.errors import UsageError

Fading = Literal["none", "rayleigh"]
COLUMNS = (
    "strategy", "uplink", "snr_db", "fading", "round_trip_ms", "upload_ms",
    "uplink_bytes_per_token", "tokens_per_s", "ratio_to_hlm", "ratio_to_local",
)  # fmt: skip
"""What the Markdown table shows."""

SNRS_DB = (0.0, 5.0, 10.0, 15.0, 20.0)


@dataclass(frozen=True)
class Channel:
    """The link between device and verifier."""

    snr_db: float = 10.0
    bandwidth_hz: float = 10e6
    fading: Fading = "rayleigh"
    mean: Literal["ergodic", "block"] = "ergodic"
    round_trip_s: float = 0.0
    """Delay of a call beyond its transmission times. The published setting has none."""
    downlink_bps: float | None = None
    """None: the reply takes no time, as in the published setting."""
    outage: float = 0.01
    """Share of fades that carry nothing, for `block`."""
    coherence_s: float = 0.01
    """Wait until the next fade, for `block`."""

    def __post_init__(self) -> None:
        numbers = (self.snr_db, self.bandwidth_hz, self.round_trip_s, self.coherence_s)
        if not all(math.isfinite(number) for number in numbers):
            raise UsageError("channel parameters must be finite")
        if self.fading not in ("none", "rayleigh") or self.mean not in ("ergodic", "block"):
            raise UsageError("fading is none or rayleigh, and its mean ergodic or block")
        if self.bandwidth_hz <= 0 or self.round_trip_s < 0 or self.coherence_s < 0:
            raise UsageError("bandwidth must be above 0, delays must not be negative")
        if self.downlink_bps is not None and not self.downlink_bps > 0:
            raise UsageError("the downlink rate must be above 0")
        if not 0 < self.outage < 1:
            raise UsageError("outage must lie between 0 and 1")

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio as a plain number."""
        return float(10 ** (self.snr_db / 10))

    def rate_bps(self, gain: float = 1.0) -> float:
        """Uplink rate at one |h|^2."""
        return self.bandwidth_hz * math.log2(1 + self.snr * gain)

    def mean_rate_bps(self) -> float:
        """E[rate] over the fading: the ergodic capacity."""
        if self.fading == "none":
            return self.rate_bps()
        return self.bandwidth_hz * _ergodic_bits(self.snr)

    def upload_s(self, size: float) -> float:
        """Mean transmission time of `size` bytes, by the rule in `mean`."""
        bits = 8 * size
        if self.fading == "none" or self.mean == "ergodic":
            return bits / self.mean_rate_bps()
        wait = self.coherence_s * self.outage / (1 - self.outage)
        return bits * self._mean_inverse_rate() + wait

    def upload_quantile_s(self, size: float, share: float) -> float:
        """The time within which `share` of the uploads are done, each in one fade."""
        if not 0 < share < 1:
            raise UsageError("a quantile lies between 0 and 1")
        gain = 1.0 if self.fading == "none" else -math.log(share)  # P(|h|^2 > gain) = share
        return 8 * size / self.rate_bps(gain)

    def download_s(self, size: float) -> float:
        """Transmission time of a reply of `size` bytes."""
        return 0.0 if self.downlink_bps is None else 8 * size / self.downlink_bps

    def call_s(self, up: float, down: float) -> float:
        """Time of a call on the link: up, down and the round trip, without the verifier's own."""
        return self.upload_s(up) + self.download_s(down) + self.round_trip_s

    def _mean_inverse_rate(self) -> float:
        """E[1/rate | |h|^2 > g0] in seconds per bit, with P(|h|^2 < g0) = outage.

        Substituting |h|^2 = e^x makes the 1/x singularity flat.
        """
        floor = -math.log1p(-self.outage)
        low, high = math.log(floor), math.log(floor + 60.0)
        nodes, weights = _legendre()
        x = low + (high - low) * (nodes + 1) / 2
        gain = np.exp(x)
        density = np.exp(floor - gain) * gain
        inverse = 1 / (self.bandwidth_hz * np.log2(1 + self.snr * gain))
        return float(np.sum(weights * density * inverse) * (high - low) / 2)


@lru_cache(maxsize=1)
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(128)
    return nodes, weights


def _ergodic_bits(snr: float) -> float:
    """E[log2(1 + snr g)], g exponential with mean 1: e^(1/snr) E1(1/snr) / ln 2.

    By parts it is the integral of e^-g snr / (1 + snr g), here over x = ln g, where the integrand
    falls off at both ends and equal steps converge exponentially.
    """
    x, step = np.linspace(-30.0 - math.log(max(snr, 1.0)), 4.5, 1000, retstep=True)
    gain = np.exp(x)
    value = np.exp(-gain) * snr * gain / (1 + snr * gain)
    return float(np.sum(value) * step / math.log(2))


def published_bytes(vocabulary: int) -> int:
    """Bytes of the published upload: every probability in 8 bits beside its index.

    V (8 + 15) bits: 92,000 at V = 32,000, where an index takes 15 bits. Elsewhere it takes
    ceil(log2 V).
    """
    if vocabulary < 2:
        raise UsageError("a vocabulary has at least two tokens")
    return math.ceil(vocabulary * (8 + (vocabulary - 1).bit_length()) / 8)


@dataclass(frozen=True)
class StrategyCost:
    """What one strategy was measured to cost, per token of the reply or per call."""

    strategy: str
    device_ms_per_token: float
    """Time of the device per token of the reply, waiting for the cloud not included."""
    cloud_ms_per_call: float
    """Time of a call beyond the channel's: verifier, and HTTP at both ends."""
    calls_per_token: float
    """Calls (uploads and audits) per token of the reply."""
    up_bytes_per_call: float
    down_bytes_per_call: float
    drafts_per_call: float = 1.0
    """Distributions in one upload: the published format pays for each. 0: it sends none."""
    rejection_rate: float = 0.0
    """Share of calls whose verdict rolls the device back."""
    pipelined: bool = False

    def __post_init__(self) -> None:
        numbers = (
            self.device_ms_per_token,
            self.cloud_ms_per_call,
            self.calls_per_token,
            self.up_bytes_per_call,
            self.down_bytes_per_call,
            self.drafts_per_call,
        )
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise UsageError(f"{self.strategy}: costs must be finite and not negative")
        if not 0 <= self.rejection_rate <= 1:
            raise UsageError(f"{self.strategy}: a rejection rate lies between 0 and 1")

    def as_published(self, vocabulary: int) -> StrategyCost:
        """The same decisions with the published upload in place of ours."""
        if self.drafts_per_call == 0:
            return self
        return replace(self, up_bytes_per_call=self.drafts_per_call * published_bytes(vocabulary))


def seconds_per_token(cost: StrategyCost, channel: Channel) -> float:
    """Mean time per token of the reply.

    In sequence: device + calls x (link + verifier). Pipelined, the device goes on drafting while
    a verdict is under way and waits only when the next uncertain token comes before it; with
    uncertain tokens falling independently, the gap G to the next one is geometric, and an
    accepted call costs E[max(0, L - G d)] of waiting. A rejected one costs the whole latency L,
    for what was drafted meanwhile is void.
    """
    device = cost.device_ms_per_token / 1000
    if cost.calls_per_token == 0:
        return device
    latency = cost.cloud_ms_per_call / 1000
    latency += channel.call_s(cost.up_bytes_per_call, cost.down_bytes_per_call)
    stall = latency
    if cost.pipelined:
        accepted = _expected_wait(latency, device, min(cost.calls_per_token, 1.0))
        stall = cost.rejection_rate * latency + (1 - cost.rejection_rate) * accepted
    return device + cost.calls_per_token * stall


def _expected_wait(latency: float, device: float, share: float) -> float:
    """E[max(0, latency - G device)], G = 1, 2, ... geometric with success rate `share`."""
    if device <= 0:
        return latency
    steps = math.floor(latency / device)
    if share >= 1:
        return max(0.0, latency - device)
    gaps = np.arange(1, min(steps, 100_000) + 1)
    chance = share * (1 - share) ** (gaps - 1)
    return float(np.sum(chance * (latency - gaps * device)))


def throughput_rows(
    costs: Sequence[StrategyCost], channels: Iterable[Channel], vocabulary: int | None = None
) -> list[dict[str, Any]]:
    """One row per channel, strategy and uplink format (`ours`; `published` given `vocabulary`)."""
    rows: list[dict[str, Any]] = []
    for channel in channels:
        formats = [("ours", list(costs))]
        if vocabulary is not None:
            formats.append(("published", [cost.as_published(vocabulary) for cost in costs]))
        for name, variants in formats:
            speeds = {cost.strategy: 1 / seconds_per_token(cost, channel) for cost in variants}
            for cost in variants:
                up = cost.up_bytes_per_call
                rows.append(
                    {
                        "strategy": cost.strategy,
                        "uplink": name,
                        "snr_db": channel.snr_db,
                        "bandwidth_hz": channel.bandwidth_hz,
                        "fading": channel.fading,
                        "mean": channel.mean if channel.fading != "none" else None,
                        "round_trip_ms": channel.round_trip_s * 1000,
                        "upload_ms": channel.upload_s(up) * 1000,
                        "upload_p95_ms": channel.upload_quantile_s(up, 0.95) * 1000,
                        "uplink_bytes_per_token": up * cost.calls_per_token,
                        "tokens_per_s": speeds[cost.strategy],
                        "ratio_to_hlm": _ratio(speeds, cost.strategy, "hlm"),
                        "ratio_to_local": _ratio(speeds, cost.strategy, "local"),
                    }
                )
    return rows


def _ratio(speeds: dict[str, float], strategy: str, other: str) -> float | None:
    return speeds[strategy] / speeds[other] if other in speeds else None
