"""A verifier that is away must not cost time at every token."""

from __future__ import annotations

import pytest

from uhlm_edge.edge.link.breaker import Breaker


def ready(breaker: Breaker) -> bool:
    """Asked anew: mypy remembers what a property said."""
    return breaker.ready


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def test_closed_lets_calls_through(breaker: Breaker) -> None:
    for _ in range(3):
        assert ready(breaker)
        breaker.begin()
        assert ready(breaker)
        breaker.succeed()


@pytest.mark.parametrize(("cost", "pause"), [(0.0, 0.1), (0.5, 5.0), (3.0, 30.0), (100.0, 30.0)])
def test_open_lasts_as_long_as_the_failure_was_costly(
    breaker: Breaker, clock: Clock, cost: float, pause: float
) -> None:
    breaker.begin()
    breaker.fail(cost)
    assert not ready(breaker)
    clock.now += pause - 0.01
    assert not ready(breaker)
    clock.now += 0.02
    assert ready(breaker)


def test_retry_after_is_the_least(breaker: Breaker, clock: Clock) -> None:
    breaker.fail(0.01, retry_after=7.0)
    clock.now += 6.9
    assert not ready(breaker)
    clock.now += 0.2
    assert ready(breaker)
    breaker.fail(3.0, retry_after=0.0)
    clock.now += 29.0
    assert not ready(breaker)


def test_half_open_lets_one_probe_through_and_it_decides(breaker: Breaker, clock: Clock) -> None:
    breaker.fail(1.0)
    clock.now += 10.1
    assert ready(breaker)
    breaker.begin()
    assert not ready(breaker)  # one probe
    breaker.fail(1.0)
    assert not ready(breaker)
    clock.now += 10.1
    breaker.begin()
    breaker.succeed()
    assert ready(breaker)
    breaker.begin()
    assert ready(breaker)  # closed again: no probe


def test_an_abandoned_probe_leaves_it_half_open(breaker: Breaker, clock: Clock) -> None:
    breaker.fail(1.0)
    clock.now += 10.1
    breaker.begin()
    breaker.abandon()
    assert ready(breaker)
    breaker.begin()
    breaker.succeed()
    assert ready(breaker)


def test_at_most_a_tenth_of_the_time_is_lost_to_timeouts(breaker: Breaker, clock: Clock) -> None:
    lost = 0.0
    while clock.now < 2000.0:
        if breaker.ready:
            breaker.begin()
            clock.now += 3.0
            lost += 3.0
            breaker.fail(3.0)
        clock.now += 0.05
    assert lost <= 0.1 * 1000 + 3.0


def test_giving_up_is_for_good(breaker: Breaker, clock: Clock) -> None:
    breaker.begin()
    breaker.give_up()
    clock.now += 1e9
    assert not ready(breaker)
