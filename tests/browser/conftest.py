"""One workbench on a tiny model for all journeys; a tab that had trouble fails its test."""

import json
from pathlib import Path

import pytest

from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.store import Codebooks
from interp.codesearch import build_index
from interp.codesearch.labels import LABELS
from interp.files import write_json
from interp.models import load_model
from interp.text import load_text
from tests.app.conftest import hand_labels
from tests.browser.workbench import Tab, complaints, serve
from tests.report.synthetic import make_bench, make_run

MARKUP = "<script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
NAME = "<img src=x onerror=window.hacked=3> *b*"
"""A folder's: no slash can be in it."""
CITY = "New York"
DOCUMENTS = [f"Mary gave {n} drinks to John in {CITY}. {MARKUP} The store of number {7 * n}." for n in range(60)]


@pytest.fixture(scope="session")
def runs(tiny_model_folder, tmp_path_factory) -> Path:
    """A runs folder with codebooks, a code index, runs and benches; texts and names in it try to be markup."""
    folder = tmp_path_factory.mktemp("workbench") / "runs"
    model = load_model(str(tiny_model_folder("llama")))
    text = load_text("stdlib", model, n_tokens=640, context=32)
    fit_codebooks(model, ["heads", "mlps"], text, folder / "books", FitConfig(n_codes=12, k=2))
    corpus = folder.parent / "documents.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": document}) for document in DOCUMENTS))
    text = load_text(str(corpus), model, n_tokens=2000, context=40)
    books = Codebooks.from_pretrained(folder / "books", model)
    hand_labels(books, MARKUP).save(folder / "books" / LABELS)
    build_index(model, books, text, folder / f"index {NAME}", batch_size=8)
    make_run(n_layers=4, n_heads=4, members=3, n_pairs=10, evil=True).save(folder / NAME)
    write_json(folder / f"bench {NAME}" / "bench.json", make_bench(("attribution", NAME), tasks=(NAME,)))
    return folder


@pytest.fixture(scope="session")
def workbench(chromium, runs, tiny_model_folder):  # noqa: ARG001 - skipped before anything is made
    """Its address."""
    log = runs.parent / "server.log"
    with serve(runs, log, str(tiny_model_folder("llama"))) as address:
        yield address
    assert complaints(log) == [], log.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def context(chromium):
    """One for all tabs: what the workbench is made of is fetched once."""
    made = chromium.new_context()
    yield made
    made.close()


@pytest.fixture
def tab(context, workbench):
    """Opens tabs on the workbench; afterwards none of them may have had trouble."""
    tabs: list[Tab] = []

    def open_(path: str = "/", **options) -> Tab:
        tabs.append(Tab(context, workbench, **options))
        tabs[-1].open(path)
        return tabs[-1]

    yield open_
    trouble = [line for each in tabs for line in (*each.trouble, *each.exceptions())]
    for each in tabs:
        each.close()
    assert trouble == []
