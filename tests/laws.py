"""Exact laws of short texts, and whether what was written follows them, by chi-square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

__all__ = ["Law", "assert_follows"]

Law = Callable[[list[int]], NDArray[np.float64]]
"""Ids before -> the exact law of the next one, shape (V,). The last id ends the text."""


def of_texts(law: Law, prompt: list[int]) -> dict[tuple[int, ...], float]:
    """The law of the first two tokens; a text that ends has one."""
    first = law(prompt)
    end = len(first) - 1
    texts: dict[tuple[int, ...], float] = {(end,): float(first[end])}
    for a, b in product(range(end), range(end + 1)):
        texts[a, b] = float(first[a] * law([*prompt, a])[b])
    return texts


def assert_follows(texts: Iterable[list[int]], law: Law, prompt: list[int]) -> None:
    """Replies of at most two tokens follow the law: below the 0.999 quantile of chi-square."""
    seen = Counter(map(tuple, texts))
    n, expected = seen.total(), of_texts(law, prompt)
    assert sum(expected.values()) == pytest.approx(1.0)
    assert not [text for text in seen if expected[text] == 0.0]
    cells = [(seen[text], n * share) for text, share in expected.items() if share > 0.0]
    chi_square = sum((count - mean) ** 2 / mean for count, mean in cells)
    k = len(cells) - 1
    assert k >= 3
    # Wilson and Hilferty's approximation.
    assert chi_square < k * (1.0 - 2.0 / (9.0 * k) + 3.09 * np.sqrt(2.0 / (9.0 * k))) ** 3
