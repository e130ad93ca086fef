"""Random tensors in ggml's block formats, each block decoding to finite numbers of a usual size.

Source of the layouts: ggml's `ggml-common.h` (block_q4_0 ... block_q6_K).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...common.errors import UsageError

SIGMA = 0.02
"""Standard deviation aimed at; that of freshly initialised transformers."""


class BlockLayout(NamedTuple):
    """A block: its bytes, and where in it the float16 scales lie. All other bytes are free.

    `scales` are (offset, value); `small` is a range of signed 8-bit scales kept below 16.
    """

    n_bytes: int
    scales: tuple[tuple[int, float], ...]
    small: tuple[int, int] | None = None


# Scale = SIGMA / spread of the integers it multiplies, and a minimum that centres them. Each is
# above 6.1e-5, the smallest normal float16.
LAYOUTS = {
    "Q4_0": BlockLayout(18, ((0, SIGMA / 4.6),)),
    "Q4_1": BlockLayout(20, ((0, SIGMA / 4.6), (2, -7.5 * SIGMA / 4.6))),
    "Q5_0": BlockLayout(22, ((0, SIGMA / 9.2),)),
    "Q5_1": BlockLayout(24, ((0, SIGMA / 9.2), (2, -15.5 * SIGMA / 9.2))),
    "Q8_0": BlockLayout(34, ((0, SIGMA / 74),)),
    "IQ4_NL": BlockLayout(18, ((0, SIGMA / 66),)),
    "Q2_K": BlockLayout(84, ((80, SIGMA / 11), (82, SIGMA / 11 * 1.5))),
    "Q3_K": BlockLayout(110, ((108, SIGMA / 42),)),
    "Q4_K": BlockLayout(144, ((0, SIGMA / 240), (2, SIGMA / 240 * 7.5))),
    "Q5_K": BlockLayout(176, ((0, SIGMA / 240), (2, SIGMA / 240 * 15.5))),
    "Q6_K": BlockLayout(210, ((208, SIGMA / 171),), small=(192, 208)),
}


def random_tile(kind: str, size: int, seed: int = 0) -> bytes:
    """About `size` bytes of whole random blocks of a tensor type, the same for one seed.

    Raises:
        UsageError: a type whose blocks are not known here.
    """
    random = np.random.default_rng(seed)
    if kind == "F16":
        return (random.standard_normal(size // 2) * SIGMA).astype("<f2").tobytes()
    if kind == "BF16":
        single = (random.standard_normal(size // 2) * SIGMA).astype("<f4")
        return (single.view("<u4") >> 16).astype("<u2").tobytes()
    if kind not in LAYOUTS:
        raise UsageError(f"no random blocks of type {kind}; try Q4_K_M, Q4_0, Q8_0 or F16")
    layout = LAYOUTS[kind]
    shape = (max(1, size // layout.n_bytes), layout.n_bytes)
    blocks: NDArray[np.uint8] = random.integers(0, 256, shape, dtype=np.uint8)
    if layout.small is not None:
        first, last = layout.small
        signed = random.integers(-16, 16, (shape[0], last - first), dtype=np.int8)
        blocks[:, first:last] = signed.view(np.uint8)
    for offset, value in layout.scales:
        blocks[:, offset : offset + 2] = np.array([value], dtype="<f2").view(np.uint8)
    return blocks.tobytes()
