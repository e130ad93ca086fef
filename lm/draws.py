"""Counter-based random numbers: the same on the device and in the cloud, whatever happens between.

A uniform is the top 53 bits of one Philox4x64-10 word with key (seed, purpose) and counter =
position of the token in the reply. Nothing is consumed, so a retry, a rollback or a pipelined draft
sees the same numbers again, and strategies can be compared draw by draw.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

SCHEME = "philox4x64-10/1"
"""Name of the scheme; both sides must agree on it. The tests hold its test vector."""

_BLOCK = 64  # positions drawn at once: a numpy generator costs 7 us to make, a word 3 ns

_MASK = 2**64 - 1

_DENSE = 500  # blocks between two ids that are drawn rather than skipped: as dear as a generator


class Purpose(IntEnum):
    """What a number is for: the second half of the Philox key.

    THETA and PERTURB are families: number k is word k % 4 under the key THETA + k // 4.
    """

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    BONUS = 3
    PROPOSAL = 4
    ROUTE = 5
    COUPLED = 6
    THETA = 256
    PERTURB = 512


def _words(seed: int, purpose: int, start: int, count: int) -> NDArray[np.float64]:
    """Uniforms in [0, 1) of `count` positions from `start` on, shape (count, 4)."""
    # numpy advances the counter before it draws, so begin one earlier.
    generator = np.random.Philox(
        key=np.array([seed, purpose], dtype=np.uint64), counter=(start - 1) % 2**256
    )
    raw = np.asarray(generator.random_raw(4 * count))
    words: NDArray[np.float64] = np.multiply(raw >> np.uint64(11), 2.0**-53, dtype=np.float64)
    return words.reshape(count, 4)


def uniform(seed: int, purpose: Purpose, position: int) -> float:
    """The uniform in [0, 1) of one position, for the purposes that are no family."""
    return (_first_word(seed, int(purpose), position) >> 11) * 2.0**-53


def _first_word(seed: int, purpose: int, position: int) -> int:
    """Word 0 of Philox4x64-10 (Salmon et al., SC11, figure 4): 4 us, where a generator takes 12."""
    key, other = seed, purpose
    a, b, c, d = position & _MASK, position >> 64, 0, 0
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, c = (high >> 64) ^ b ^ key, (low >> 64) ^ d ^ other
        b, d = high & _MASK, low & _MASK
        key = (key + 0x9E3779B97F4A7C15) & _MASK
        other = (other + 0xBB67AE8584CAA73B) & _MASK
    return a


def per_id(seed: int, position: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """A uniform in [0, 1) for each of `ids` at one position, shape (n,).

    That of an id is word id % 4 at the counter (position, id // 4): it depends on nothing else, so
    two sides that know different ids see the same numbers at those that both know.

    Args:
        seed: of the reply.
        position: of the token.
        ids: shape (n,), ascending, at least one.
    """
    blocks = ids >> 2
    start, first = position << 64, int(blocks[0])
    span = int(blocks[-1]) - first + 1
    if span <= _DENSE * len(ids):
        dense = _words(seed, Purpose.COUPLED, start + first, span).reshape(-1)
        return dense.take(ids - 4 * first)
    words = [_words(seed, Purpose.COUPLED, start + int(block), 1)[0] for block in blocks]
    chosen: NDArray[np.float64] = np.array(words)[np.arange(len(ids)), ids & 3]
    return chosen


def turn_seed(seed: int, turn: int) -> int:
    """The seed of reply number `turn` of a conversation; reply 0 has the seed itself."""
    if turn == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Draws:
    """The random numbers of one reply, drawn for many positions at a time.

    Args:
        seed: 0 <= seed < 2**64.
        k: how many theta and perturb numbers a position has.
    """

    def __init__(self, seed: int, k: int = 0) -> None:
        self.seed = seed
        self.k = k
        self._tables: dict[tuple[Purpose, int], NDArray[np.float64]] = {}

    def one(self, purpose: Purpose, position: int) -> float:
        """The uniform of `purpose` at `position`."""
        return float(self._row(purpose, position)[0])

    def thetas(self, position: int) -> NDArray[np.float64]:
        """K uniforms that become the temperatures of `position`, shape (K,)."""
        return self._row(Purpose.THETA, position)

    def perturbs(self, position: int) -> NDArray[np.float64]:
        """K uniforms that draw the perturbed samples of `position`, shape (K,)."""
        return self._row(Purpose.PERTURB, position)

    def _row(self, purpose: Purpose, position: int) -> NDArray[np.float64]:
        block, row = divmod(position, _BLOCK)
        table = self._tables.get((purpose, block))
        if table is None:
            table = self._table(purpose, block * _BLOCK)
            # A rollback never reaches back further than the block before.
            self._tables = {k: v for k, v in self._tables.items() if k[1] >= block - 1}
            self._tables[purpose, block] = table
        row_values: NDArray[np.float64] = table[row]
        return row_values

    def _table(self, purpose: Purpose, start: int) -> NDArray[np.float64]:
        if purpose < Purpose.THETA:
            return _words(self.seed, purpose, start, _BLOCK)[:, :1]
        groups = [_words(self.seed, purpose + g, start, _BLOCK) for g in range((self.k + 3) // 4)]
        return np.concatenate(groups, axis=1)[:, : self.k] if groups else np.empty((_BLOCK, 0))
