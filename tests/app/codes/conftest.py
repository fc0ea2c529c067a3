"""A runs folder with an index of texts that try to be markup, and the page *Codes* on it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import streamlit as st

from interp.bottlenecks.store import Codebooks
from interp.codesearch import CodeIndex, build_index
from interp.text import load_text

EVIL = "<script>alert(1)</script> *a* ![x](https://example.org)"
DOCUMENTS = [f"Mary gave {n} drinks to John. Zürich 🙂 (New) York {EVIL} number {7 * n}." for n in range(60)]
NAME = "index <b>"


@pytest.fixture(scope="module")
def saved(runs_with_books, model, tmp_path_factory) -> Path:
    """A runs folder with codebooks, an index of texts that try to be markup, and its copy under another name."""
    folder = tmp_path_factory.mktemp("indexes") / "runs"
    shutil.copytree(runs_with_books / "books", folder / "books")
    corpus = folder.parent / "documents.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": document}) for document in DOCUMENTS), encoding="utf-8")
    text = load_text(str(corpus), model, n_tokens=2400, context=40)
    books = Codebooks.from_pretrained(folder / "books", model)
    build_index(model, books, text, folder / NAME, batch_size=8)
    return folder


@pytest.fixture
def runs(saved, tmp_path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(saved, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def index(saved) -> CodeIndex:
    return CodeIndex.open(saved / NAME)


@pytest.fixture(scope="module")
def busy(index) -> tuple[str, int]:
    """The most frequent code of a head."""
    begin = index.layout.code("a1.h2", 0)
    return "a1.h2", int(np.argmax(index.counts[begin : begin + 12]))


@pytest.fixture(scope="module")
def its_name(busy) -> str:
    return "{}={}".format(*busy)


@pytest.fixture
def page(open_page, saved):
    return lambda runs=saved, **address: open_page("codes", runs, **address)


@pytest.fixture(autouse=True)
def _fresh():
    """Caches are the process's: no test sees another one's index."""
    yield
    st.cache_resource.clear()


def tables_of(app) -> dict[str, list]:
    """Rows of the tables, by their first columns' names."""
    return {
        ", ".join(table.value.columns[:3]): table.value.to_dict("records")
        for table in app.dataframe
        if len(table.value.columns)
    }


def hits_of(app) -> list[str]:
    """The codes that a search has found, as they are shown."""
    return [row["code"] for row in tables_of(app)["code, precision, P 95 %"]]


def named(hits) -> list[str]:
    return [f"{hit.book}={hit.code}" for hit in hits]
