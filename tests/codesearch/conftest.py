"""A model with codebooks of every kind of site, and an index of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.store import Codebooks, describe_text, model_identity
from interp.codesearch import CodeIndex, build_index
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


@pytest.fixture(scope="session")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


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
