"""The channel model against closed forms, brute force and the paper's numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from uhlm_edge.bench.network.channel import (
    SNRS_DB,
    Channel,
    StrategyCost,
    published_bytes,
    seconds_per_token,
    throughput_rows,
)
from uhlm_edge.common.errors import UsageError


def test_the_published_upload_has_the_published_size() -> None:
    assert published_bytes(32_000) == 92_000
    assert published_bytes(151_936) == math.ceil(151_936 * 26 / 8)
    with pytest.raises(UsageError):
        published_bytes(1)


def test_without_fading_the_rate_is_shannons() -> None:
    channel = Channel(snr_db=0, bandwidth_hz=10e6, fading="none")
    assert channel.mean_rate_bps() == pytest.approx(10e6)
    assert channel.upload_s(92_000) == pytest.approx(0.0736)


@pytest.mark.parametrize("snr_db", [-10.0, *SNRS_DB, 40.0])
def test_the_ergodic_rate_is_its_integral(snr_db: float) -> None:
    channel = Channel(snr_db=snr_db)
    gain = np.linspace(0, 60, 600_001)
    integrand = np.log2(1 + channel.snr * gain) * np.exp(-gain)
    expected = np.sum((integrand[1:] + integrand[:-1]) / 2) * (gain[1] - gain[0])
    assert channel.mean_rate_bps() / 10e6 == pytest.approx(expected, rel=1e-6)


def test_the_ergodic_rate_at_0_db_is_the_known_constant() -> None:
    # e E1(1) / ln 2, with E1(1) = 0.21938393439552
    expected = math.e * 0.21938393439552 / math.log(2)
    assert Channel(snr_db=0).mean_rate_bps() / 10e6 == pytest.approx(expected, rel=1e-9)


def test_fading_costs_rate_and_more_signal_buys_it() -> None:
    rates = [Channel(snr_db=snr).mean_rate_bps() for snr in SNRS_DB]
    assert rates == sorted(rates)
    for snr, rate in zip(SNRS_DB, rates, strict=True):
        assert rate < Channel(snr_db=snr, fading="none").mean_rate_bps()


@pytest.mark.parametrize("outage", [0.001, 0.01, 0.1])
def test_block_fading_has_the_mean_of_simulated_uploads(outage: float) -> None:
    channel = Channel(snr_db=5, mean="block", outage=outage, coherence_s=0.02)
    random = np.random.default_rng(1)
    gain = random.exponential(size=500_000)
    good = gain[gain > -math.log1p(-outage)]
    times = 8 * 10_000 / (10e6 * np.log2(1 + channel.snr * good))
    waits = (random.geometric(1 - outage, size=500_000) - 1) * 0.02
    assert channel.upload_s(10_000) == pytest.approx(times.mean() + waits.mean(), rel=0.01)
    assert channel.upload_s(10_000) > Channel(snr_db=5).upload_s(10_000)


def test_the_block_mean_grows_without_bound_as_outage_goes_to_0() -> None:
    times = [Channel(mean="block", outage=share).upload_s(1000) for share in (1e-2, 1e-4, 1e-8)]
    first, second = times[1] - times[0], times[2] - times[1]
    assert second > 1.5 * first  # logarithmically: twice the decades, about twice the growth


def test_a_quantile_is_what_share_of_simulated_uploads_take() -> None:
    channel = Channel(snr_db=10)
    gain = np.random.default_rng(2).exponential(size=300_000)
    times = 8 * 500 / (10e6 * np.log2(1 + channel.snr * gain))
    assert channel.upload_quantile_s(500, 0.95) == pytest.approx(
        float(np.quantile(times, 0.95)), rel=0.02
    )


LOCAL = StrategyCost("local", 20.0, 0.0, 0.0, 0.0, 0.0)
HLM = StrategyCost("hlm", 20.0, 10.0, 1.0, 100.0, 40.0)
UHLM = StrategyCost("uhlm", 20.0, 10.0, 0.4, 100.0, 40.0, rejection_rate=0.3)


def test_in_sequence_every_call_is_waited_for() -> None:
    channel = Channel(
        fading="none", snr_db=0, bandwidth_hz=8e5, round_trip_s=0.05, downlink_bps=32e4
    )
    assert seconds_per_token(LOCAL, channel) == pytest.approx(0.020)
    call = 0.010 + 0.001 + 0.001 + 0.05
    assert seconds_per_token(HLM, channel) == pytest.approx(0.020 + call)
    assert seconds_per_token(UHLM, channel) == pytest.approx(0.020 + 0.4 * call)


def simulate(device: float, latency: float, share: float, rejected: float) -> float:
    """The pipelined loop, event by event: one call under way at most."""
    random = np.random.default_rng(3)
    uncertain = random.random(60_000) < share
    rejects = random.random(60_000) < rejected
    now = arrives = 0.0
    for asks, no in zip(uncertain, rejects, strict=True):
        now += device
        if asks:
            now = max(now, arrives)
            arrives = now + latency
            if no:
                now = arrives  # nothing drafted before the verdict survives it
    return now / 60_000


@pytest.mark.parametrize("latency", [0.005, 0.05, 0.2])
@pytest.mark.parametrize("share", [0.05, 0.4])
@pytest.mark.parametrize("rejected", [0.0, 0.3])
def test_pipelined_waiting_is_what_a_simulation_of_the_loop_gives(
    latency: float, share: float, rejected: float
) -> None:
    cost = StrategyCost(
        "uhlm", 20.0, latency * 1000, share, 0.0, 0.0, rejection_rate=rejected, pipelined=True
    )
    modelled = seconds_per_token(cost, Channel())
    assert modelled == pytest.approx(simulate(0.020, latency, share, rejected), rel=0.03)


def test_pipelining_never_makes_it_slower_nor_faster_than_the_device() -> None:
    for snr in SNRS_DB:
        channel = Channel(snr_db=snr, round_trip_s=0.05)
        pipelined = seconds_per_token(replace(UHLM, pipelined=True), channel)
        assert 0.020 <= pipelined <= seconds_per_token(UHLM, channel)


def test_rows_compare_formats_and_name_their_units() -> None:
    rows = throughput_rows([LOCAL, HLM, UHLM], [Channel(snr_db=snr) for snr in SNRS_DB], 32_000)
    assert len(rows) == 5 * 3 * 2
    at = {(row["strategy"], row["uplink"], row["snr_db"]): row for row in rows}
    ours, published = at["hlm", "ours", 0.0], at["hlm", "published", 0.0]
    assert published["uplink_bytes_per_token"] == 92_000
    assert ours["uplink_bytes_per_token"] == 100
    assert float(str(ours["tokens_per_s"])) > float(str(published["tokens_per_s"]))
    assert at["local", "ours", 0.0]["tokens_per_s"] == pytest.approx(50)
    assert ours["ratio_to_hlm"] == 1
    assert at["uhlm", "published", 0.0]["ratio_to_hlm"] == pytest.approx(
        (0.030 + 92_000 * 8 / Channel(snr_db=0).mean_rate_bps())
        / (0.020 + 0.4 * (0.010 + 92_000 * 8 / Channel(snr_db=0).mean_rate_bps()))
    )


@pytest.mark.parametrize(
    "options",
    [
        {"bandwidth_hz": 0.0},
        {"snr_db": float("inf")},
        {"round_trip_s": -1.0},
        {"outage": 0.0},
        {"downlink_bps": 0.0},
        {"fading": "rician"},
        {"mean": "median"},
    ],
)
def test_impossible_channels_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Channel(**options)  # type: ignore[arg-type]


def test_impossible_costs_are_refused() -> None:
    with pytest.raises(UsageError, match="hlm: costs"):
        StrategyCost("hlm", -1.0, 0, 1, 1, 1)
    with pytest.raises(UsageError, match="rejection rate"):
        StrategyCost("hlm", 1.0, 0, 1, 1, 1, rejection_rate=2)
