"""Whatever an address says, the page is drawn; what it names and is not there is told."""

import shutil

import pytest

from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import WHOLE
from interp.bottlenecks import store
from interp.codesearch import build_index
from interp.text import load_text
from tests.report.synthetic import make_run

FIELDS = (
    ("steering", {"positions": "generated"}, ("tokens", "begin", "seed", "slots")),
    ("steering", {"source": "of a topic"}, ("top_k",)),
    ("codes", {"q": "Mary"}, ("rows", "hits_least", "each")),
    ("codes", {"code": "a1.h2=1", "order": "evenly spread"}, ("contexts",)),
    ("codes", {}, ("search",)),
    ("codes", {"code": "a1.h2=1"}, ("order",)),
    ("circuit", {}, ("side",)),
    ("evaluation", {}, ("show", "bench_pairs", "along")),
    ("evaluation", {"show": "Codebooks"}, ("heldout",)),
)
NAMED = (("steering", "books", "folder of codebooks"), ("codes", "index", "index"), ("circuit", "run", "run"))


@pytest.fixture(scope="module")
def runs(model, runs_with_books, tmp_path_factory):
    """Codebooks, an index of them and a run, each called as the address asks for it."""
    folder = tmp_path_factory.mktemp("address") / "runs"
    shutil.copytree(runs_with_books / "books", folder / "books")
    books = store.Codebooks.from_pretrained(folder / "books", model)
    text = load_text("stdlib", model, n_tokens=640, context=32)
    build_index(model, books, text, folder / "index", batch_size=8)
    make_run(n_layers=4, n_heads=4, members=3, n_pairs=10).save(folder / "run")
    return folder


@pytest.mark.parametrize(("view", "beside", "names"), FIELDS)
def test_values_that_no_field_takes_are_left_out(open_page, runs, view, beside, names):
    for value in ("inf", "-1e400") if names[0] in WHOLE else ("",):
        open_page(view, runs, **beside | dict.fromkeys(names, value))  # which fails at an exception


@pytest.mark.parametrize(("view", "name", "what"), NAMED)
def test_what_is_not_there_is_told_and_no_other_place_is_opened(open_page, runs, view, name, what):
    shutil.copytree(runs / name, runs.parent / "elsewhere" / name)
    for gone in ("gone *b*", "/etc", "..", f"../elsewhere/{name}", f"{name}/../../elsewhere/{name}"):
        app = open_page(view, runs, **{name: gone})
        warnings = [warning.value for warning in app.warning]
        assert warnings == [f"Here is no {what} called {plain(gone)}: another is shown."]
        assert app.selectbox(key=name).options == [name]
    assert not open_page(view, runs).warning


def test_text_that_is_no_link_stays_text():
    assert plain("see https://a.example -> www.b.example, me@c.example") == (
        r"see https\:" + "\u2060" + r"\/\/a\.example \-" + "\u2060" + r"\> www" + "\u2060"
        r"\.b\.example\, me\@" + "\u2060" + r"c\.example"
    )
    assert plain("give --codes") == r"give \-\-codes"
