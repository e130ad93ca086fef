"""Ids and distributions as bytes: what makes an upload small."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from ..lm.sampling import TOTAL, Distribution, Probs
from ..lm.verification import contrast_mask

PREFIX_BYTES = 8
SENT_PREFIX_BYTES = 4


class Malformed(ValueError):
    """The bytes are no message of this protocol (HTTP 400)."""


class OutOfRange(ValueError):
    """A well-formed message with impossible values (HTTP 422)."""


def require(condition: bool, error: type[ValueError], message: str) -> None:
    """Raise `error` unless the condition holds."""
    if not condition:
        raise error(message)


def prefix_hash(ids: Sequence[int]) -> bytes:
    """blake2b-64 over the ids as little-endian uint32."""
    return hashlib.blake2b(
        np.asarray(ids, dtype="<u4").tobytes(), digest_size=PREFIX_BYTES
    ).digest()


def pack_ids(ids: Iterable[int]) -> bytes:
    """Ids as LEB128: two bytes up to 16,383, three up to two million."""
    out = bytearray()
    for value in ids:
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def unpack_ids(
    raw: bytes, limit: int, error: type[ValueError] = OutOfRange, what: str = "tokens"
) -> list[int]:
    """The ids again; at most `limit`, each below 2**35."""
    ids: list[int] = []
    value = shift = 0
    for byte in raw:
        if byte & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            require(shift <= 28, Malformed, "an id is too long")
            continue
        ids.append(value | byte << shift)
        value = shift = 0
        if len(ids) > limit:
            raise error(f"too many {what}")
    require(shift == 0, Malformed, "the last id is cut off")
    return ids


def pack_distribution(distribution: Distribution) -> bytes:
    """n, n ascending ids as differences, n - 1 weights of 16 bits; the sum gives the last."""
    ids = distribution.ids.tolist()
    steps = [ids[0], *(b - a for a, b in pairwise(ids))]
    return pack_ids([len(ids), *steps]) + distribution.weights[:-1].astype("<u2").tobytes()


def unpack_distribution(raw: bytes, limit: int) -> Distribution:
    """The distribution again; its values are checked by `check_distribution`."""
    end = next((i for i, byte in enumerate(raw[:5]) if byte < 0x80), None)
    require(end is not None, Malformed, "an empty distribution")
    at = (end or 0) + 1
    (n,) = unpack_ids(raw[:at], 1)
    require(1 <= n <= limit, OutOfRange, "too many ids in a distribution")
    # Everything after n: n varints, then 2 (n - 1) bytes.
    split = len(raw) - 2 * (n - 1)
    require(split >= at, Malformed, "a distribution is cut off")
    steps = unpack_ids(raw[at:split], n)
    require(len(steps) == n, Malformed, "a distribution has too few ids")
    if n == 1:
        return Distribution.certain(steps[0])
    # Lists: of so few numbers they are several times faster than arrays.
    weights = [*struct.unpack_from(f"<{n - 1}H", raw, split)]
    weights.append(TOTAL - sum(weights))
    return Distribution(np.array([*accumulate(steps)], np.int64), np.array(weights, np.int64))


def pack_q(
    weights: Sequence[int], judged: Sequence[int], drafts: Sequence[Distribution]
) -> int | list[bytes | None]:
    """What a call tells of the device's q, for MessagePack.

    Where all is certain, how many weights there are. Otherwise a list: what each weight lacks to
    TOTAL (a byte where q is above .998, two above .75), then for each draft its distribution, or
    None where that is certain.

    Args:
        weights: rounded q(token) TOTAL of the skipped tokens.
        judged: the drafts.
        drafts: what each was drawn from.
    """
    parts = [
        None if d.ids.tolist() == [*judged[i : i + 1]] else pack_distribution(d)
        for i, d in enumerate(drafts)
    ]
    if not any(parts) and all(weight == TOTAL for weight in weights):
        return len(weights)
    return [pack_ids(TOTAL - weight for weight in weights), *parts]


def unpack_q(
    q: object, judged: Sequence[int], n_weights: int, wire_top: int
) -> tuple[list[int], list[Distribution]]:
    """Weights and distributions again; their values are the message's to check.

    Args:
        q: as `pack_q` made it; hostile.
        judged: the drafts.
        n_weights, wire_top: how many weights, and ids in a distribution, there may be.
    """
    if type(q) is int:
        require(0 <= q <= n_weights, OutOfRange, "too many weights")
        return [TOTAL] * q, [Distribution.certain(token) for token in judged]
    require(isinstance(q, list) and bool(q), Malformed, "q is a number or a list")
    assert isinstance(q, list)  # noqa: S101 - as required
    lacking, parts = q[0], q[1:]
    right = isinstance(lacking, bytes) and all(d is None or isinstance(d, bytes) for d in parts)
    require(right, Malformed, "q must hold bytes")
    require(len(parts) == len(judged), OutOfRange, "judge and the number of distributions differ")
    drafts = [
        Distribution.certain(token) if d is None else unpack_distribution(d, wire_top)
        for token, d in zip(judged, parts, strict=True)
    ]
    return [TOTAL - less for less in unpack_ids(lacking, n_weights, what="weights")], drafts


def pack_contrast(p: Probs, alpha: float = 0.1) -> bytes:
    """The ids with at least `alpha` of the peak's probability, and their logarithms (float32)."""
    ids = contrast_mask(p, alpha)
    steps = np.diff(ids, prepend=0).tolist()
    return pack_ids([len(ids), *steps]) + np.log(p[ids]).astype("<f4").tobytes()


def unpack_contrast(raw: bytes, n_vocab: int) -> tuple[NDArray[np.int64], Probs]:
    """Ids (n,), ascending, and log-probabilities (n,); raises Malformed."""
    end = next((i for i, byte in enumerate(raw) if byte < 0x80), None)
    require(end is not None, Malformed, "an empty contrast")
    (n,) = unpack_ids(raw[: (end or 0) + 1], 1, Malformed)
    split = len(raw) - 4 * n
    require(n > 0 and split > 0, Malformed, "a contrast is cut off")
    steps = unpack_ids(raw[(end or 0) + 1 : split], n, Malformed)
    require(len(steps) == n, Malformed, "a contrast has too few ids")
    ids = np.cumsum(steps, dtype=np.int64)
    require(bool((np.diff(ids) > 0).all()) and ids[-1] < n_vocab, Malformed, "ids of a contrast")
    log_p = np.frombuffer(raw[split:], dtype="<f4").astype(np.float64)
    require(bool((log_p <= 0.0).all()), Malformed, "log-probabilities of a contrast")
    return ids, log_p


def check_distribution(distribution: Distribution, limit: int, n_vocab: int) -> None:
    """Refuse ids or weights that no Distribution has."""
    shape = distribution.ids.shape
    same = len(shape) == 1 and shape == distribution.weights.shape
    require(same, OutOfRange, "ids and weights differ")
    require(0 < shape[0] <= limit, OutOfRange, "too many ids in a distribution")
    ids, weights = distribution.ids.tolist(), distribution.weights.tolist()
    require(ids[0] >= 0 and ids[-1] < n_vocab, OutOfRange, "unknown token id")
    require(ids == sorted(set(ids)), OutOfRange, "ids must ascend")
    require(min(weights) > 0, OutOfRange, "weights must be positive")
    require(sum(weights) == TOTAL, OutOfRange, f"weights must sum to {TOTAL}")
