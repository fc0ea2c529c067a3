"""How what grows with the text grows: processor seconds at 10⁴ to 10⁷ synthetic tokens, and the slope between them.

    python -m benchmarks.scaling [--fit 10000000]

One thread. ``--fit``: tokens to fit on and to read, at most. Slopes are of log seconds over log tokens; 1 is linear. A
queue of 10⁶ prompts is timed too.
"""

import tempfile
from collections import deque
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import arguments, timed
from interp.bottlenecks import Codebook, CodebookConfig
from interp.codesearch.build import count_and_list
from interp.codesearch.index import positions, span_of
from interp.codesearch.layout import Book, IdFile, Layout
from interp.executor import Job, _next

SIZES = (10**4, 10**5, 10**6, 10**7)
SHARD, D_HEAD, N_CODES = 10_000, 64, 512
HEADS, K = 4, 4
CALLS = 1000


def vectors(shard: int) -> torch.Tensor:
    """Those that one head gives for some tokens: a few directions and noise."""
    generator = torch.Generator().manual_seed(shard % 50)
    directions = torch.randn(200, D_HEAD, generator=torch.Generator().manual_seed(-1))
    drawn = torch.randint(200, (SHARD,), generator=generator)
    return directions[drawn] + 0.5 * torch.randn(SHARD, D_HEAD, generator=generator)


def fit(n: int) -> float:
    """One head's codes by shards, as where the vectors do not fit into memory; making them is not counted."""
    book, taken = Codebook(CodebookConfig(D_HEAD, N_CODES)).requires_grad_(False), 0.0
    for shard in range(n // SHARD):
        x = vectors(shard)
        taken += timed(lambda x=x: book.partial_fit(x)).processor
    return taken


def read(n: int) -> float:
    """One head's codes chosen."""
    book, x = Codebook(CodebookConfig(D_HEAD, N_CODES)).requires_grad_(False), vectors(0)
    book.fit(x[: 4 * N_CODES])
    return timed(lambda: [book.encode(x) for _ in range(n // SHARD)]).processor


def index(n: int) -> tuple[float, float, float]:
    """Counts and lists of an index, the tokens of a code in it, and bytes a token of a head."""
    layout = Layout(tuple(Book(f"a0.h{h}", "a0", h, h, N_CODES, K) for h in range(HEADS)), n)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        ids = IdFile.create(Path(folder) / "ids.npy", layout)
        for block in ids.array:
            block[:] = rng.integers(N_CODES, size=block.shape, dtype=np.uint16)
        span = span_of(layout)
        (_, lists), _, finished = timed(lambda: count_and_list(ids, span))
        asked = min(timed(lambda: positions(ids, 1, 7, lists[N_CODES + 7], span)).processor for _ in range(3))
        return finished, asked, (ids.array.nbytes + lists.nbytes) / n / HEADS


def queue(n_prompts: int) -> float:
    """Taking a job from the queue of a reference, 16 prompts a job."""
    jobs = deque(Job(f"pairs {i}", print, (), ("model",)) for i in range(n_prompts // 16))
    calls = min(CALLS, len(jobs))
    return timed(lambda: [_next(jobs, ("model",)) for _ in range(calls)]).processor / calls


def main() -> None:
    most = arguments(__doc__, fit=10**7).fit
    torch.set_num_threads(1)
    rows: dict[str, list[float]] = {name: [] for name in ("fit", "read", "finish", "ask", "bytes")}
    for n in SIZES:
        measurements = dict(zip(("finish", "ask", "bytes"), index(n), strict=True))
        if n <= most:
            measurements |= {"fit": fit(n), "read": read(n)}
        for name, value in measurements.items():
            rows[name].append(value)
        print(n, {name: float(f"{value:.3g}") for name, value in measurements.items()}, flush=True)
    for name, values in rows.items():
        slopes = np.diff(np.log10(values)) / np.diff(np.log10(SIZES[: len(values)]))
        print(f"{name:7} slopes {', '.join(f'{slope:.2f}' for slope in slopes)}")
    print({n: f"{1e6 * queue(n):.1f} µs a job" for n in (10**4, 10**5, 10**6)})


if __name__ == "__main__":
    main()
