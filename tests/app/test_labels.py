"""Labels stand beside the number wherever a code is shown, whatever the tokens in them say, and pages do without."""

import shutil

import pytest

from interp.bottlenecks.store import Codebooks
from interp.codesearch import CodeIndex
from interp.codesearch.labels import LABELS, MIXED, Labels
from tests.app.conftest import error_of, hand_labels, html_of, strips_of, text_of, with_coarse

TEXT = "Mary had a store"
EVIL = "“<img src=x onerror=alert(1)>\u202e *a*”"


@pytest.fixture
def runs(runs_with_books, model, tmp_path):
    shutil.copytree(runs_with_books, tmp_path / "runs")
    books = Codebooks.from_pretrained(tmp_path / "runs" / "books", model)
    hand_labels(books, EVIL).save(tmp_path / "runs" / "books" / LABELS)
    CodeIndex.build(model, books, "stdlib", tmp_path / "runs" / "index", n_tokens=640, context=32)
    return tmp_path / "runs"


def test_live_text_says_what_codes_stand_for_without_a_click(open_page, runs):
    app = open_page("live", runs, text=TEXT, site="a0.h1")
    [row] = strips_of(app)[0]["rows"]
    wanted = {0: MIXED, 1: "“<img src=x onerror=alert(1)>\\u202e *a*”"}
    labels = [title.partition(": ")[2] for title in row["titles"]]
    assert labels == [wanted.get(int(code), f"name {code}") for code in row["numbers"]]
    legend, named = "".join(html_of(app)), [label for label in labels if label != MIXED]
    assert named and all(label.replace("<", "&lt;").replace(">", "&gt;") in legend for label in named)
    assert "<img" not in legend and MIXED not in legend
    table = app.dataframe[0].value
    assert list(table["stands for"]) == [wanted.get(code, f"name {code}") for code in table["code"]]


def test_codes_opens_on_the_clearest_and_a_code_says_what_it_stands_for(open_page, runs):
    app = open_page("codes", runs)
    assert "The clearest codes" in [element.value for element in app.subheader]
    [gallery] = [element.value for element in app.dataframe if "clearest at" in element.value]
    assert len(gallery) > 5 and gallery["stands for"].is_unique and MIXED not in set(gallery["stands for"])
    assert all("[" in text for text in gallery["clearest at"])
    assert not app.exception and not app.error
    app = open_page("codes", runs, code="a0.h1=1")
    [labels] = [element.value for element in app.markdown if "F1 0\\.50" in element.value or "F1 0.50" in element.value]
    assert "\\<img" in labels and "<img" not in labels.replace("\\<img", "")
    assert "no simple pattern" in text_of(open_page("codes", runs, code="a0.h1=0"))
    app = open_page("codes", runs, q="the")
    [hits] = [element.value for element in app.dataframe if "recall" in element.value]
    assert all(row["stands for"] for _, row in hits.iterrows())


@pytest.mark.parametrize("view", ["live", "codes"])
def test_damaged_labels_are_a_line_and_the_page_goes_on(open_page, runs, view):
    (runs / "books" / LABELS).write_bytes(b"no parquet")
    app = open_page(view, runs)
    assert "cannot read the labels" in error_of(app)
    assert not app.exception and app.selectbox


def test_labels_of_other_codebooks_are_not_shown(open_page, runs):
    labels = Labels.open(runs / "books" / LABELS)
    labels.about["books"] = "others"
    labels.save(runs / "books" / LABELS)
    app = open_page("live", runs, text=TEXT, site="a0.h1")
    [row] = strips_of(app)[0]["rows"]
    assert not any(":" in title for title in row["titles"]) and "stands for" not in app.dataframe[0].value


def test_both_levels_are_shown_searched_and_steered_by(open_page, runs):
    with_coarse(Labels.open(runs / "books" / LABELS)).save(runs / "books" / LABELS)
    app = open_page("live", runs, text=TEXT, site="a0.h1")
    [row] = strips_of(app)[0]["rows"]
    assert set(row["numbers"]) <= {"0", "1"}  # coarse ones first
    assert all(title.endswith(f"few {code}") for title, code in zip(row["titles"], row["numbers"], strict=True))
    app.segmented_control(key="level").set_value("all codes").run()
    [row] = strips_of(app)[0]["rows"]
    assert set(row["numbers"]) - {"0", "1"} and all("few" in title for title in row["titles"])
    app = open_page("codes", runs, q="the", level="coarse codes")
    [hits] = [element.value for element in app.dataframe if "recall" in element.value]
    assert all(code.endswith(".all") for code in hits["code"])
    assert set(hits["stands for"]) <= {"few 0", "few 1"}
    app = open_page("codes", runs, code="a0.h1=1.all")
    index = CodeIndex.open(runs / "index")
    odd = {token for code in range(1, index.books[0].n_codes, 2) for token in index.positions("a0.h1", code)}
    assert not app.exception and [element.value.replace("\\", "") for element in app.title] == ["a0.h1=1.all"]
    assert app.metric[0].value == f"{len(odd):,}" and "few 1" in text_of(app)
    assert "it is a0.h1=1.3" in error_of(open_page("codes", runs, code="a0.h1=0.3")).replace("\\", "")
