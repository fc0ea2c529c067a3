"""Intervals of shares and of means."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Shaped

_Z = 1.959963984540054  # the normal distribution's quantile at 97.5 %
RESAMPLES = 2000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; 0 to 1 where nothing was counted."""
    low, high = wilson_bounds(np.array([hits]), np.array([n]))
    return float(low[0]), float(high[0])


def wilson_bounds(
    hits: Int[np.ndarray, " share"], n: Shaped[np.ndarray, " share"]
) -> tuple[Float[np.ndarray, " share"], Float[np.ndarray, " share"]]:
    """:func:`wilson` of many at once: scipy takes half a millisecond for each."""
    hits, whole = hits.astype(float), np.maximum(n, 1).astype(float)
    share, z = hits / whole, _Z**2 / whole
    centre = (share + z / 2) / (1 + z)
    half = np.sqrt(share * (1 - share) * z + z**2 / 4) / (1 + z)
    low = np.where(hits <= 0, 0.0, centre - half)
    high = np.where((hits >= n) | (n <= 0), 1.0, centre + half)
    return low, high


def mean_interval(
    values: Float[np.ndarray, "row column"], seed: int
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """95 % percentile bootstrap interval of each column's mean, resampling rows (pairs, blocks), at least two."""
    return _bootstrap((values,), lambda rows, axis: rows.mean(axis=axis), seed)


def ratio_interval(
    sums: Float[np.ndarray, " row"], counts: Shaped[np.ndarray, " row"], seed: int
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of Σ sums / Σ counts, resampling rows of unlike size, at least two."""
    low, high = _bootstrap((sums, counts), lambda x, n, axis: x.sum(axis=axis) / n.sum(axis=axis), seed)
    return float(low), float(high)


def r2_of(
    predicted: Float[np.ndarray, " row"], value: Float[np.ndarray, " row"], seed: int
) -> tuple[float, float, float] | None:
    """1 − Σ (predicted − value)² / Σ (value − mean)², and its 95 % bootstrap interval; ``None`` where all are equal."""
    if len(value) < 2 or np.ptp(value) == 0:
        return None

    def r2(predicted: np.ndarray, value: np.ndarray, axis: int) -> np.ndarray:
        error = ((predicted - value) ** 2).mean(axis=axis)
        return 1 - error / np.maximum(value.var(axis=axis), 1e-12)

    low, high = _bootstrap((predicted, value), r2, seed)
    return float(r2(predicted, value, 0)), float(low), float(high)


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable, seed: int) -> tuple:
    """Ends of the percentile interval; of several samples the same rows are drawn."""
    from scipy.stats import bootstrap  # takes half a second, and shares need none of it

    interval = bootstrap(
        samples,
        statistic,
        axis=0,
        paired=True,
        n_resamples=RESAMPLES,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return interval.low, interval.high
