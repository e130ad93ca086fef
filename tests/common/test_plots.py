"""Every picture is a whole PNG, and rows that cannot be drawn are refused by number."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from uhlm_edge.bench.network.channel import SNRS_DB, Channel, StrategyCost, throughput_rows
from uhlm_edge.common import plots
from uhlm_edge.common.errors import DataError, ResourceError

STRATEGIES = [
    {"strategy": "local", "accuracy": 0.42, "transmission_rate": 0.0},
    {"strategy": "hlm", "accuracy": 0.81, "transmission_rate": 1.0},
    {"strategy": "uhlm", "accuracy": 0.74, "transmission_rate": 0.3, "accuracy_low": 0.71,
     "accuracy_high": 0.77, "oracle_rate": 0.12},
    {"strategy": "uhlm", "accuracy": 0.79, "transmission_rate": 0.5},
    {"strategy": "rand", "accuracy": 0.55, "transmission_rate": 0.3},
    {"strategy": "rand", "accuracy": 0.63, "transmission_rate": 0.5},
    {"strategy": "spec", "accuracy": 0.81, "transmission_rate": 0.98},
    {"strategy": "reward", "accuracy": 0.73, "transmission_rate": 0.33},
    {"strategy": "cloud", "accuracy": 0.81, "transmission_rate": 1.0},
    {"strategy": "ensemble", "accuracy": 0.77, "transmission_rate": 0.99},
]  # fmt: skip
COSTS = [
    StrategyCost("local", 30.0, 0, 0, 0, 0),
    StrategyCost("hlm", 30.0, 12.0, 1.0, 110, 40),
    StrategyCost("uhlm", 30.0, 12.0, 0.35, 110, 40, rejection_rate=0.3),
    StrategyCost("spec", 30.0, 30.0, 0.3, 300, 60, drafts_per_call=3.3, rejection_rate=0.4),
    StrategyCost("cloud", 0.0, 12.0, 1.0, 70, 40, drafts_per_call=0),
]


def throughput(path: Path) -> Path:
    channels = [Channel(snr_db=snr, round_trip_s=0.02) for snr in SNRS_DB]
    return plots.throughput_over_snr(throughput_rows(COSTS, channels, 32_000), path)


def latency(path: Path) -> Path:
    random = np.random.default_rng(0)
    return plots.latency_histogram([*random.normal(30, 2, 600), *random.normal(90, 10, 200)], path)


def wide_latency(path: Path) -> Path:
    return plots.latency_histogram(np.random.default_rng(0).lognormal(3, 1, 800).tolist(), path)


def energy(path: Path) -> Path:
    rows: list[dict[str, object]] = [
        {"strategy": "local", "prompt_j": 0.12, "generation_j": 0.61, "radio_j": None},
        {"strategy": "hlm", "prompt_j": 0.12, "generation_j": 0.95, "radio_j": 0.31},
        {"strategy": "uhlm", "prompt_j": 0.12, "generation_j": 0.72, "radio_j": 0.11},
        {"strategy": "cloud", "prompt_j": None, "generation_j": None, "radio_j": 0.3},
    ]
    return plots.energy_bars(rows, path)


def nothing_measured(path: Path) -> Path:
    return plots.energy_bars([{"strategy": "local"}, {"strategy": "uhlm"}], path)


def rejection(path: Path) -> Path:
    random = np.random.default_rng(0)
    u = np.round(random.beta(0.5, 1.2, 3000) * 20) / 20
    beta = np.clip(0.85 * u - 0.03 + random.normal(0, 0.15, 3000), 0, 1)
    marks = {"averse": 0.05, "risk": 0.1, "prone": 0.43, "off the scale": -0.2}
    return plots.rejection_against_uncertainty(
        u.tolist(), beta.tolist(), path, (0.85, -0.03), marks
    )


def accuracy(path: Path) -> Path:
    return plots.accuracy_against_rate(STRATEGIES, path)


@pytest.mark.parametrize(
    "draw",
    [accuracy, throughput, latency, wide_latency, energy, nothing_measured, rejection],
)
def test_every_picture_is_a_whole_png(draw: Callable[[Path], Path], tmp_path: Path) -> None:
    path = draw(tmp_path / "plots" / f"{draw.__name__}.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.rstrip().endswith(b"IEND\xaeB`\x82")
    assert len(data) > 5000


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    assert accuracy(tmp_path / "a.png").read_bytes() == accuracy(tmp_path / "b.png").read_bytes()


def test_rows_that_cannot_be_drawn_are_refused_by_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        plots.accuracy_against_rate([], tmp_path / "x.png")
    with pytest.raises(DataError, match="row 2 has no accuracy"):
        plots.accuracy_against_rate([STRATEGIES[0], {"strategy": "hlm"}], tmp_path / "x.png")
    with pytest.raises(DataError, match="above 0"):
        plots.latency_histogram([], tmp_path / "x.png")
    with pytest.raises(DataError, match="as many"):
        plots.rejection_against_uncertainty([0.1], [], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_way_to_get_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ResourceError, match=r"uhlm-edge\[bench\]"):
        accuracy(tmp_path / "x.png")


def test_colours_are_told_apart_without_colour_too() -> None:
    styles = list(plots.STYLES.values())
    assert len({mark for _, mark, _ in styles}) == len(styles)
    assert len({colour for colour, _, _ in styles}) == len(styles)
