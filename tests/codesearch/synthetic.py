"""Indexes without a model: any ids over any text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp.codesearch import Book, CodeIndex
from interp.codesearch.build import WORK, finish
from interp.codesearch.corpus import Corpus
from interp.codesearch.firing_stats import Gathered
from interp.codesearch.index import IDS
from interp.codesearch.layout import IdFile, Layout

REQUEST = {
    "model": {"spec": None},
    "books": {"fingerprint": "", "folder": None, "sites": []},
    "text": {"spec": "synthetic", "split": "train"},
    "error_term": True,
}


def word_corpus(words: Sequence[str], tokens: np.ndarray, *, context: int = 16, documents: int = 4) -> Corpus:
    """Every word a token, id 0 an end of text that closes every fourth block."""
    table = [b"<end>", *(word.encode() for word in words)]
    special = np.arange(len(table)) == 0
    ends = np.arange(context * documents - 1, len(tokens), context * documents)
    tokens = tokens.astype(np.uint16)
    tokens[ends] = 0
    starts = np.concatenate([[0], ends + 1])
    text = b"".join(b"" if t == 0 else table[t] for t in tokens.tolist())
    return Corpus(
        tokens,
        context,
        starts[starts < len(tokens)].astype(np.int64),
        np.frombuffer(b"".join(table), np.uint8),
        np.cumsum([len(part) for part in table], dtype=np.int64),
        special,
        np.frombuffer(text, np.uint8),
    )


def zipf_ids(rng: np.random.Generator, shape: tuple[int, ...], n_codes: int) -> np.ndarray:
    weight = 1 / np.arange(1, n_codes + 1)
    return rng.choice(n_codes, shape, p=weight / weight.sum())


def synthetic_index(folder: Path, corpus: Corpus, ids: Sequence[np.ndarray], n_codes: int) -> CodeIndex:
    """An index of these ids, [token, k] of each book."""
    n = len(corpus.tokens)
    books = tuple(Book(f"a{i}.h0", f"a{i}", 0, 0, n_codes, part.shape[1]) for i, part in enumerate(ids))
    layout = Layout(books, n)
    file = IdFile.create(folder / WORK / IDS, layout)
    for i, part in enumerate(ids):
        file.write(i, 0, part)
    file.flush()
    return finish(folder, file, corpus, Gathered(layout.n_codes), REQUEST)
