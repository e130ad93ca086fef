"""The random numbers: those of the published algorithm, whoever draws them and in what order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.lm.draws import SCHEME, Draws, Purpose, turn_seed, uniform

SINGLE = [purpose for purpose in Purpose if purpose < Purpose.THETA]
SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 2**31)


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Philox4x64-10 as published (Salmon et al., SC 2011, section 3.3), for one counter."""
    mask = 2**64 - 1
    c = [counter >> 64 * i & mask for i in range(4)]
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], 2**64)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return c


def test_the_reference_is_the_published_one() -> None:
    # Known answers of Random123: zeros; all ones; digits of pi.
    assert philox(0, (0, 0))[0] == 0x16554D9ECA36314C
    assert philox(2**256 - 1, (2**64 - 1, 2**64 - 1))[0] == 0x87B092C3013FE90B


def test_the_reference_is_numpys() -> None:
    raw = np.random.Philox(key=np.array([7, 8], np.uint64), counter=41).random_raw(4)
    assert philox(42, (7, 8)) == raw.tolist()


@given(SEEDS, st.sampled_from(SINGLE), POSITIONS)
def test_a_number_is_the_top_53_bits_of_the_first_word(
    seed: int, purpose: Purpose, position: int
) -> None:
    assert uniform(seed, purpose, position) == (philox(position, (seed, purpose))[0] >> 11) / 2**53


def test_vector() -> None:
    """What another implementation of the scheme must give."""
    assert SCHEME == "philox4x64-10/1"
    assert uniform(0, Purpose.DRAFT, 0) == 0.08723912359911234
    assert [uniform(2026, purpose, 5) for purpose in SINGLE] == [
        0.52718986492914,
        0.5569341299394449,
        0.336358183309316,
        0.08857406558852532,
        0.9933598448552504,
        0.11884089584443458,
        0.5109591156937555,
    ]


@given(SEEDS, st.sampled_from(SINGLE), st.integers(0, 500))
def test_a_table_holds_the_single_draws(seed: int, purpose: Purpose, position: int) -> None:
    assert Draws(seed).one(purpose, position) == uniform(seed, purpose, position)


@pytest.mark.parametrize("k", [0, 1, 3, 4, 5, 20])
def test_number_k_of_a_family_is_word_k_mod_4_under_the_key_of_its_group(k: int) -> None:
    draws = Draws(9, k)
    for position in (0, 63, 64, 1000):
        for family, row in (
            (Purpose.THETA, draws.thetas(position)),
            (Purpose.PERTURB, draws.perturbs(position)),
        ):
            words = [philox(position, (9, family + i // 4))[i % 4] >> 11 for i in range(k)]
            assert row.tolist() == [word / 2**53 for word in words]


def test_the_order_of_asking_changes_nothing() -> None:
    positions = [0, 200, 63, 64, 5, 199, 0, 130]
    draws = Draws(3, 5)
    seen = [(draws.one(Purpose.ACCEPT, p), draws.thetas(p).tolist()) for p in positions]
    for p, (one, thetas) in zip(positions, seen, strict=True):
        fresh = Draws(3, 5)
        assert (one, thetas) == (fresh.one(Purpose.ACCEPT, p), fresh.thetas(p).tolist())


def test_purposes_and_positions_share_no_number() -> None:
    draws = Draws(1, 20)
    numbers = [draws.one(purpose, p) for purpose, p in itertools.product(SINGLE, range(100))]
    numbers += [float(x) for p in range(100) for x in (*draws.thetas(p), *draws.perturbs(p))]
    assert len(set(numbers)) == len(numbers)
    assert 0.0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1.0


def test_tables_of_the_past_are_let_go() -> None:
    draws = Draws(1, 20)
    for position in range(2000):
        draws.one(Purpose.DRAFT, position)
        draws.thetas(position)
    assert len(draws._tables) <= 4


def test_every_turn_has_its_own_seed_and_the_first_the_given_one() -> None:
    seeds = [turn_seed(7, turn) for turn in range(100)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**64 for seed in seeds)
