"""A model with codebooks of every kind of site and an index of them; indexes without a model, any ids over any text."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.store import Codebooks, describe_text, model_identity
from interp.codesearch import Book, CodeIndex, build_index
from interp.codesearch.build import WORK, finish
from interp.codesearch.corpus import Corpus
from interp.codesearch.firing_stats import Gathered
from interp.codesearch.index import IDS
from interp.codesearch.layout import IdFile, Layout
from interp.codesearch.looks import LOOKS, PARTS, looks_layout
from interp.models import Model
from interp.text import TextBlocks, load_text


def make_books() -> dict[str, Codebook]:
    """For the tiny llama: heads with a book each, heads that share one, one head alone, an MLP's vector shared out."""
    configs = {
        "a0": CodebookConfig(6, 20, k=2, groups=4, selection="matching_pursuit"),
        "a1": CodebookConfig(6, 12, k=2),
        "m0": CodebookConfig(12, 16, k=3, groups=2),
        "r1": CodebookConfig(24, 30, k=1, magnitude="scaled"),
    }
    books = {}
    for i, (site, config) in enumerate(configs.items()):
        books[site] = Codebook(config).requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(i)
            books[site].codes.copy_(0.2 * torch.randn(books[site].codes.shape))
    return books


def save_books(model: Model, text: TextBlocks, books: dict[str, Codebook], folder: Path) -> Codebooks:
    """The books as a folder, without fitting."""
    for site, book in books.items():
        book.save_pretrained(folder / site)
    fit = {"k": 3, "n_codes": 12, "selection": "matching_pursuit", "magnitude": "unit", "seed": 0}
    made = {"model": model_identity(model), "sites": list(books), "text": describe_text(text)}
    return Codebooks.finish(folder, made | {"fit": fit | {"sequential": True}})


DOCUMENTS = [
    f"Mary gave {n} drinks to John. Zürich 🙂 New York, naïve{'.' * (n % 3)}\nThe store of number {7 * n}."
    for n in range(200)
]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "documents.jsonl"
    path.write_text("\n".join(json.dumps({"text": document}) for document in DOCUMENTS))
    return path


@pytest.fixture(scope="session")
def text(model: Model, text_file: Path) -> TextBlocks:
    return load_text(str(text_file), model, n_tokens=48 * 40, context=40)


@pytest.fixture(scope="session")
def books() -> dict[str, Codebook]:
    return make_books()


@pytest.fixture(scope="session")
def index(model, text, books, tmp_path_factory) -> CodeIndex:
    folder: Path = tmp_path_factory.mktemp("index")
    build_index(model, books, text, folder, batch_size=8)
    return CodeIndex.open(folder, books)


REQUEST = {
    "model": {"spec": None},
    "books": {"fingerprint": "", "folder": None, "sites": [], "configs": {}},
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


def synthetic_index(
    folder: Path, corpus: Corpus, ids: Sequence[np.ndarray], n_codes: int, looks: Sequence[np.ndarray] | None = None
) -> CodeIndex:
    """An index of these ids, [token, k] of each book; ``looks`` are positions in the block, of each book's head."""
    n = len(corpus.tokens)
    books = tuple(Book(f"a{i}.h0", f"a{i}", 0, 0, n_codes, part.shape[1]) for i, part in enumerate(ids))
    layout = Layout(books, n)
    file = IdFile.create(folder / WORK / IDS, layout)
    for i, part in enumerate(ids):
        file.write(i, 0, part)
    file.flush()
    if looks is not None:
        looked = IdFile.create(folder / WORK / LOOKS, looks_layout(layout, corpus.context))
        for i, place in enumerate(looks):
            looked.write(i, 0, np.stack([place * PARTS + PARTS - 1, np.full(n, -1)], 1))
        looked.flush()
    finish(folder, file, corpus, Gathered(layout.n_codes), REQUEST)
    return CodeIndex.open(folder)
