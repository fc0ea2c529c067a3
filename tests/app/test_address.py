"""Whatever an address says, the page is drawn; what it names and is not there is told."""

import shutil

import pytest

from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import CHOSEN, WHOLE
from tests.report.synthetic import make_run

PLACES = {
    "tokens": ("steering", {}),
    "begin": ("steering", {"positions": "generated"}),
    "seed": ("steering", {}),
    "slots": ("steering", {}),
    "top_k": ("steering", {"source": "of a topic"}),
    "rows": ("codes", {"q": "Mary"}),
    "hits_least": ("codes", {"q": "Mary"}),
    "each": ("codes", {"q": "Mary"}),
    "contexts": ("codes", {"code": "a1.h2=1", "order": "evenly spread"}),
    "search": ("codes", {}),
    "order": ("codes", {"code": "a1.h2=1"}),
    "side": ("circuit", {}),
    "show": ("evaluation", {}),
    "bench_pairs": ("evaluation", {}),
    "heldout": ("evaluation", {"show": "Codebooks"}),
    "along": ("evaluation", {}),
}


@pytest.fixture(scope="module")
def runs(tiny_model_folder, tmp_path_factory):
    """Codebooks, an index of them and a run."""
    from interp.bottlenecks.fit import FitConfig, fit_codebooks
    from interp.bottlenecks.store import Codebooks
    from interp.codesearch import build_index
    from interp.models import load_model
    from interp.text import load_text

    folder = tmp_path_factory.mktemp("address")
    model = load_model(str(tiny_model_folder("llama")))
    text = load_text("stdlib", model, n_tokens=640, context=32)
    fit_codebooks(model, ["heads"], text, folder / "books", FitConfig(n_codes=12, k=2))
    books = Codebooks.from_pretrained(folder / "books", model)
    build_index(model, books, text, folder / "index", batch_size=8)
    make_run(n_layers=4, n_heads=4, members=3, n_pairs=10).save(folder / "circuit")
    return folder


@pytest.mark.parametrize("name", [*WHOLE, *CHOSEN])
def test_values_that_no_field_takes_are_left_out(open_page, runs, name):
    view, beside = PLACES[name]
    for value in ("inf", "-1e400") if name in WHOLE else ("",):
        open_page(view, runs, **beside | {name: value})  # which fails at an exception


@pytest.mark.parametrize(
    ("view", "name", "what"),
    [
        ("steering", "books", "folder of codebooks"),
        ("codes", "index", "index"),
        ("circuit", "run", "run"),
    ],
)
def test_a_name_that_is_not_there_is_told(open_page, runs, view, name, what):
    app = open_page(view, runs, **{name: "gone *b*"})
    assert [warning.value for warning in app.warning] == [
        f"Here is no {what} called {plain('gone *b*')}: another is shown."
    ]
    assert not open_page(view, runs).warning


@pytest.mark.parametrize(
    ("view", "name", "what", "folder"),
    [
        ("steering", "books", "folder of codebooks", "books"),
        ("codes", "index", "index", "index"),
        ("circuit", "run", "run", "circuit"),
    ],
)
def test_what_vanishes_while_it_is_open_is_told(open_page, runs, tmp_path, view, name, what, folder):
    shutil.copytree(runs, tmp_path / "runs")
    shutil.copytree(runs / folder, tmp_path / "runs" / "second")
    app = open_page(view, tmp_path / "runs", **{name: "second"})
    assert app.selectbox(key=name).value == "second" and not app.warning
    shutil.rmtree(tmp_path / "runs" / "second")
    app.run()
    assert not app.exception and app.selectbox(key=name).value == folder
    told = f"Here is no {what} called second"
    assert [warning.value for warning in app.warning] == [f"{told}: another is shown."]
    shutil.rmtree(tmp_path / "runs" / folder)
    app.run()
    assert not app.exception and f"Here is no {what} called {folder}." in [w.value for w in app.warning]


def test_an_index_of_other_codebooks_of_the_package_has_no_links(runs, tmp_path, monkeypatch):
    from interp.app.widgets import urls as links
    from interp.bottlenecks import store

    monkeypatch.setattr(store, "PRETRAINED", tmp_path / "package")
    monkeypatch.setenv("INTERP_RUNS", str(runs))
    shutil.copytree(runs / "books", tmp_path / "package" / "tiny")
    own = store.Codebooks.from_pretrained("tiny")
    for fingerprint, name in ((store.codebooks_fingerprint(own), "tiny"), ("another", None)):
        made_with = {"folder": "/elsewhere/tiny", "sites": list(own), "fingerprint": fingerprint}
        monkeypatch.setattr(links, "read_json", lambda _path, made_with=made_with: {"books": made_with})
        assert links.books_of("index") == name


def test_text_that_is_no_link_stays_text():
    assert plain("see https://a.example -> www.b.example, me@c.example") == (
        r"see https\:" + "\u2060" + r"\/\/a\.example \-" + "\u2060" + r"\> www" + "\u2060"
        r"\.b\.example\, me\@" + "\u2060" + r"c\.example"
    )
    assert plain("give --codes") == r"give \-\-codes"
