"""Intervals of shares."""


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; 0 to 1 where nothing was counted."""
    from scipy.stats import binomtest

    if not n:
        return 0.0, 1.0
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return float(low), float(high)
