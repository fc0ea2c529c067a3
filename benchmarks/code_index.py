"""Size, opening, regex query and a code's page of a large code index.

    python -m benchmarks.code_index [--tokens 2000000] [--books 384] [--codes 10000] [--k 8] [--dir DIR]

Synthetic ids, Zipf-distributed, as many as a model of 24 layers and 16 heads has: 384 books × 2 M tokens × 8 codes are
12.3 GB. Each book holds the same draws, shifted and renamed. With --dir the index stays there and is used again.
Processor time stands beside wall time: on a shared machine the first is what a query costs.
"""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import arguments, print_table, timed
from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.store import codebooks_fingerprint
from interp.codesearch import Book, CodeIndex, code_page, search_regex, search_similar
from interp.codesearch.build import WORK, finish
from interp.codesearch.corpus import Corpus
from interp.codesearch.firing_stats import Gathered
from interp.codesearch.index import IDS, MANIFEST
from interp.codesearch.layout import BLOCK, IdFile, Layout, without_repeats
from interp.progress import bar

HEADS, D_HEAD, CONTEXT, MATCHES, ROUNDS = 16, 64, 1024, 10_000, 5
WORDS = 5000


def main() -> None:
    given = arguments(__doc__, tokens=2_000_000, books=384, codes=10_000, k=8, dir=Path)
    torch.set_num_threads(1)
    book = Codebook(CodebookConfig(D_HEAD, given.codes, k=given.k, groups=HEADS)).requires_grad_(False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.dir or Path(temporary)
        if not (folder / MANIFEST).exists():
            make_index(folder, book, given.tokens, given.books, given.codes, given.k)
        measure(folder, book)


def make_index(folder: Path, book: Codebook, n: int, n_books: int, n_codes: int, k: int) -> None:
    rng, n = np.random.default_rng(0), n // CONTEXT * CONTEXT
    places = [(i // HEADS, i % HEADS) for i in range(n_books)]
    books = tuple(Book(f"a{a}.h{h}", f"a{a}", h, h, n_codes, k) for a, h in places)
    layout = Layout(books, n)
    ids = IdFile.create(folder / WORK / IDS, layout)
    weight = np.cumsum(1 / np.arange(1, n_codes + 1))
    drawn = np.searchsorted(weight / weight[-1], rng.random((layout.n_blocks * BLOCK, k), np.float32))
    drawn = without_repeats(np.minimum(drawn, n_codes - 1), n_codes).astype(layout.dtype)
    with bar("writing ids", n_books) as done:
        for i in range(n_books):
            names = np.append(rng.permutation(n_codes), n_codes).astype(layout.dtype)
            shifted = np.roll(drawn.reshape(layout.n_blocks, BLOCK, k), int(rng.integers(layout.n_blocks)), 0)
            ids.book(i)[:] = names[shifted]
            ids.book(i)[-1, n - (layout.n_blocks - 1) * BLOCK :] = n_codes
            done(1)
    gathered = Gathered(layout.n_codes)
    gathered.token[:] = rng.integers(n, size=gathered.token.shape, dtype=np.uint32)
    gathered.margin[:] = -np.sort(-rng.random(gathered.margin.shape, np.float32), 2)
    gathered.similarity[:] = gathered.margin
    request = {
        "model": {"spec": None},
        "books": {
            "fingerprint": codebooks_fingerprint({"a0": book}),
            "folder": None,
            "sites": ["a0"],
            "configs": {"a0": asdict(book.config)},
        },
        "text": {"spec": "synthetic", "split": "train"},
        "error_term": True,
    }
    finish(folder, ids, make_corpus(rng, n), gathered, request, bar)


def make_corpus(rng: np.random.Generator, n: int) -> Corpus:
    """Words of three to eight letters, Zipf-distributed, and 10 000 times New York."""
    letters = rng.integers(97, 123, (WORDS, 8), dtype=np.uint8)
    words = [" " + bytes(row[: rng.integers(3, 9)]).decode() for row in letters]
    table = [b"", b" New", b" York", *(word.encode() for word in words)]
    weight = np.cumsum(1 / np.arange(1, WORDS + 1))
    tokens = 3 + np.minimum(np.searchsorted(weight / weight[-1], rng.random(n)), WORDS - 1)
    tokens[::CONTEXT] = 0
    places = np.flatnonzero(np.arange(n // 4) % (CONTEXT // 4) > 0)
    at = rng.choice(places, min(MATCHES, n // 8), replace=False) * 4
    tokens[at], tokens[at + 1] = 1, 2
    return Corpus(
        tokens.astype(np.uint16),
        CONTEXT,
        np.arange(0, n, CONTEXT),
        np.frombuffer(b"".join(table), np.uint8),
        np.cumsum([len(part) for part in table], dtype=np.int64),
        np.arange(len(table)) == 0,
        np.frombuffer(b"".join([table[t] for t in tokens.tolist()]), np.uint8),
    )


def measure(folder: Path, book: Codebook) -> None:
    opened = timed(lambda: CodeIndex.open(folder)).clock
    index = CodeIndex.open(folder, {"a0": book})
    prompt = {b.name: index.ids.rows(i, np.array([4321]))[0].astype(int) for i, b in enumerate(index.books)}
    prompt = {n: np.where(c < book.config.n_codes, c, -1) for n, c in prompt.items()}
    order = np.argsort(index.counts[: index.books[0].n_codes])
    queries: dict[str, tuple[Callable[[], object], str | None]] = {
        "regex 'New York', 10 000 × 2 tokens": (lambda: search_regex(index, "New York").best(20), "1000 ms")
    }
    for which, at in (("the most frequent", -1), ("a usual", len(order) // 2)):
        code = int(order[at])
        page = functools.partial(code_page, index, "a0.h0", code)
        queries[f"page of {which} code ({index.counts[code]})"] = page, "200 ms"
    queries["contexts like a prompt"] = lambda: search_similar(index, prompt, 20), None
    ratio = index.n_bytes / (index.layout.dtype.itemsize * index.layout.n_ids)
    rows: list[tuple] = [
        ("bytes / 2 bytes per id", f"{ratio:.3f}", None, f"{index.n_bytes / 1e9:.2f} GB", "1.1"),
        ("open", f"{opened * 1000:.0f} ms", None, None, "1000 ms"),
    ]
    for name, (query, goal) in queries.items():
        clock, processor = repeated(query)
        cells = (f"{each:.0f} ms" for each in (np.median(clock), min(clock), np.median(processor)))
        rows.append((name, *cells, goal))
    title = f"{len(index.books)} books × {index.n_tokens} tokens × {index.books[0].k} codes of {book.config.n_codes}"
    print_table(("", "wall, median of 5", "fastest", "processor time", "goal"), rows, title)


def repeated(work: Callable[[], object]) -> np.ndarray:
    """Milliseconds by clock and of processors, [2, round], with everything in memory."""
    work(), work()
    return 1000 * np.array([timed(work)[1:] for _ in range(ROUNDS)]).T


if __name__ == "__main__":
    main()
