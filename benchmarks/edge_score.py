"""Edge scores of code overlap: sorting against the published definition written out, in time and memory.

python benchmarks/edge_score.py
"""

import time
import tracemalloc
from collections.abc import Callable
from itertools import product

import numpy as np
from rich.console import Console
from rich.table import Table

from interp.scores.overlap import edge_overlap

SMALL = (20, 60, 30)
"""Heads, prompts per side, codes: what the definition written out can do in a few seconds."""
LARGE = (270, 500, 200)
"""The embedded model's heads, 500 prompts per side, the published number of codes."""


def as_defined(clean: np.ndarray, corrupt: np.ndarray, n_codes: int) -> np.ndarray:
    """Two arrays of heads² × codes² counts, filled example by example, as the published code does."""
    counts = []
    for ids in (clean, corrupt):
        heads = ids.shape[1]
        count = np.zeros((heads, heads, n_codes, n_codes))
        for example, h1, h2 in product(range(len(ids)), range(heads), range(heads)):
            if h1 != h2:
                count[h1, h2, ids[example, h1], ids[example, h2]] += 1
        counts.append(count)
    return ((counts[0] > 0) & ~(counts[1] > 0)).sum((2, 3))


def codes(heads: int, prompts: int, n_codes: int) -> tuple[np.ndarray, np.ndarray, int]:
    clean, corrupt = np.random.default_rng(0).integers(0, n_codes, (2, prompts, heads))
    return clean, corrupt, n_codes


def measure(function: Callable, arguments: tuple) -> tuple[np.ndarray, float, float]:
    """The result, seconds, and the peak of allocated memory in MB (in a run of its own: tracing is slow)."""
    begin = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - begin
    tracemalloc.start()
    function(*arguments)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return result, seconds, peak


def main() -> None:
    expected, slow, slow_peak = measure(as_defined, codes(*SMALL))
    found, fast, fast_peak = measure(edge_overlap, codes(*SMALL))
    _, alone, alone_peak = measure(edge_overlap, codes(*LARGE))
    heads, _, n_codes = LARGE

    table = Table("heads × prompts × codes", "method", "seconds", "peak MB", "ratio", title="Edge scores")
    small, large = (" × ".join(map(str, case)) for case in (SMALL, LARGE))
    table.add_row(small, "as defined", f"{slow:.3f}", f"{slow_peak:.1f}", "1")
    table.add_row(small, "sorting", f"{fast:.4f}", f"{fast_peak:.1f}", f"{slow / fast:.0f} × faster")
    table.add_row(large, "sorting", f"{alone:.2f}", f"{alone_peak:.1f}", "")
    console = Console()
    console.print(table)
    console.print(f"equal results on the small case: {bool((expected == found).all())}")
    console.print(f"as defined, the large case would need {2 * 8 * heads**2 * n_codes**2 / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
