"""The recorder of a power source: its rate, its integral, its thread."""

from __future__ import annotations

import threading

import pytest

from uhlm_edge.bench.energy.recorder import Recorder, background_sampling
from uhlm_edge.common.errors import UsageError
from uhlm_edge.edge.device.power import Quantity


class Steady:
    """Ten watts, whatever happens."""

    name = "steady"
    label = "steady"
    quantity: Quantity = "watts"

    def read(self) -> float:
        return 10.0


def test_the_sampling_thread_samples_at_its_rate_and_stops() -> None:
    clock = [0.0]
    recorder = Recorder(Steady(), lambda: clock[0])
    waits: list[float] = []
    done = threading.Event()

    def wait(stop: threading.Event, seconds: float) -> bool:
        waits.append(seconds)
        clock[0] += 0.05
        if len(waits) < 40:
            return False
        done.set()
        return stop.wait(5)

    extra: list[float] = []
    with background_sampling(20, wait, lambda: extra.append(clock[0]))(recorder):
        assert done.wait(5)
    assert len(recorder.times) == 40
    assert waits == pytest.approx([0.05] * 40)
    assert extra == pytest.approx([0.0, 1.0])
    assert recorder.watts(0.0, 1.9) == pytest.approx(10.0)
    assert recorder.joules(0.0, 3.0) is None
    with pytest.raises(UsageError, match="10 to 1000"):
        background_sampling(5)


def test_the_trapezoid_is_exact_on_a_ramp() -> None:
    clock = [0.0]

    class Ramp(Steady):
        def read(self) -> float:
            return 1 + clock[0]

    recorder = Recorder(Ramp(), lambda: clock[0])
    for t in (0.0, 0.1, 0.4, 1.0, 2.0):
        clock[0] = t
        recorder.take()
    assert recorder.joules(0.0, 2.0) == pytest.approx(2 + 2)
    assert recorder.joules(0.25, 1.5) == pytest.approx(1.25 + (1.5**2 - 0.25**2) / 2)
