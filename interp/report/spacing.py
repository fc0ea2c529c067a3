"""Keeping labels and boxes from lying on each other."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def spread(
    heights: Sequence[float] | Float[np.ndarray, " n"], least: float, low: float, high: float
) -> Float[np.ndarray, " n"]:
    """Heights in rising order with at least ``least`` between neighbours, moved as little as a sweep up and one down
    need; evenly from ``low`` to ``high`` where that does not fit."""
    found = np.array(heights, dtype=np.float64)
    if len(found) > 1 and (len(found) - 1) * least >= high - low:
        return np.linspace(low, high, len(found))
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + least)
    last = high
    for i in reversed(range(len(found))):
        found[i] = min(found[i], last)
        last = found[i] - least
    return found
