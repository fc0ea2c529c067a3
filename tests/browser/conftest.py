"""One workbench on a tiny model for all journeys; a tab that had trouble fails its test."""

from pathlib import Path

import pytest

from interp.bottlenecks.fitting import FitConfig, fit_codebooks
from interp.models import load_model
from interp.text import load_text
from tests.browser.workbench import Tab, complaints, serve


@pytest.fixture(scope="session")
def runs(tiny_model_folder, tmp_path_factory) -> Path:
    """A runs folder with codebooks, a code index and a run; names and texts in it try to be markup."""
    folder = tmp_path_factory.mktemp("workbench") / "runs"
    model = load_model(str(tiny_model_folder("llama")))
    text = load_text("stdlib", model, n_tokens=640, context=32)
    fit_codebooks(model, text, ["heads", "mlps"], folder / "books", FitConfig(n_codes=12, k=2))
    return folder


@pytest.fixture(scope="session")
def workbench(chromium, runs, tiny_model_folder):  # noqa: ARG001 - skipped before anything is made
    """Its address."""
    log = runs.parent / "server.log"
    with serve(runs, log, str(tiny_model_folder("llama"))) as address:
        yield address
    assert complaints(log) == [], log.read_text(encoding="utf-8")


@pytest.fixture
def tab(chromium, workbench):
    """Opens tabs on the workbench; afterwards none of them may have had trouble."""
    tabs: list[Tab] = []

    def open_(path: str = "/", **options) -> Tab:
        tabs.append(Tab(chromium, workbench, **options))
        tabs[-1].open(path)
        return tabs[-1]

    yield open_
    trouble = [line for each in tabs for line in (*each.trouble, *each.exceptions())]
    for each in tabs:
        each.close()
    assert trouble == []
