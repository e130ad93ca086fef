"""Exact distributions of short texts, and whether what was written follows them, by chi-square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

__all__ = ["NextProbs", "assert_follows"]

NextProbs = Callable[[list[int]], NDArray[np.float64]]
"""Ids before -> the exact distribution of the next one, shape (V,). The last id ends the text."""


def of_texts(exact: NextProbs, prompt: list[int], n: int) -> dict[tuple[int, ...], float]:
    """The distribution of the first n tokens; a text that ends has fewer."""
    texts, begun = dict[tuple[int, ...], float](), dict[tuple[int, ...], float]({(): 1.0})
    for _ in range(n):
        longer: dict[tuple[int, ...], float] = {}
        for text, mass in begun.items():
            row = exact([*prompt, *text])
            ended = (*text, len(row) - 1)
            texts[ended] = mass * float(row[-1])
            longer |= {(*text, i): mass * float(row[i]) for i in range(len(row) - 1)}
        begun = longer
    return texts | begun


def assert_follows(
    texts: Iterable[list[int]], exact: NextProbs, prompt: list[int], n: int = 2
) -> None:
    """Replies of at most n tokens follow it: below the 0.999 quantile of chi-square."""
    seen = Counter(map(tuple, texts))
    total, expected = seen.total(), of_texts(exact, prompt, n)
    assert sum(expected.values()) == pytest.approx(1.0)
    assert not [text for text in seen if expected[text] == 0.0]
    cells = [(seen[text], total * share) for text, share in expected.items() if share > 0.0]
    common = [cell for cell in cells if cell[1] >= 5.0]
    if rare := [cell for cell in cells if cell[1] < 5.0]:  # too few each to be told apart
        common.append((sum(count for count, _ in rare), sum(mean for _, mean in rare)))
    chi_square = sum((count - mean) ** 2 / mean for count, mean in common)
    k = len(common) - 1
    assert k >= 3
    # Wilson and Hilferty's approximation.
    assert chi_square < k * (1.0 - 2.0 / (9.0 * k) + 3.09 * np.sqrt(2.0 / (9.0 * k))) ** 3
