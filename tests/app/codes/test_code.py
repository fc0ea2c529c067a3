"""The page *Codes*: what it shows is what the library finds; what a corpus, a note or an address holds is text.

Defects of the anchor's pages (codebook-features' Streamlit app), and the test that shows each absent:

1. "all" shows one example, N show N + 2: ``test_exactly_as_many_contexts_as_are_asked_for`` in ``test_code.py``, and
   ``test_every_order_of_contexts_shows_exactly_as_many_as_there_are`` of ``tests/codesearch/test_page.py``.
2. "save" stores the code of another panel: ``test_star_and_note_are_those_of_the_code_that_is_shown``.
3. An intervention that appends a code raises TypeError: ``tests/steering`` (``AddCode``).
4. Similar codes only of unit vectors: ``test_nearest_codes_are_by_cosine_whatever_the_lengths`` of
   ``tests/codesearch/test_page.py``; here ``test_the_page_of_a_code_shows_what_the_library_finds``.
5. Patterns with escaped or non-capturing parentheses, only the first token of a match, offsets behind multi-byte
   characters: ``test_every_code_against_brute_force`` of ``tests/codesearch/test_search.py`` and
   ``test_an_emoji_of_several_tokens_is_one_match`` of ``test_corpus.py``; here ``test_a_pattern_on_the_page``.
6. Only 2000 examples, one codebook a layer: every index here has neither.
7. No ranking, logit lens, histogram, similarity, margin, neighbours, prompts, export, state in the address:
   ``test_the_page_of_a_code_shows_what_the_library_finds``, ``test_contexts_by_each_order``,
   ``test_contexts_like_a_token_of_a_prompt``, ``test_tables_leave_as_csv``, ``test_the_address_says_all``.
"""

import html
import json
import re

import numpy as np
import pytest

from interp.app import engine
from interp.codesearch import (
    code_contexts,
    code_page,
    logit_lens,
    search_regex,
)
from interp.codesearch.annotations import Annotation, Annotations
from tests.app.codes.conftest import EVIL, button, captions, code_of, tables_of, unescaped
from tests.app.conftest import html_of


def test_the_page_of_a_code_shows_what_the_library_finds(page, index, busy, model):
    app = page(code="{}={}".format(*busy))
    found = code_page(index, *busy, model=model)
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics == {
        "Tokens with it": str(found.count),
        "Share of tokens": f"{found.frequency:.3%}",
        "Documents": f"{found.n_documents} of {len(index.corpus.documents)}",
        "Clearest margin": f"{found.contexts[0].margin:.2f}",
    }
    tables = tables_of(app)
    tokens = tables["token, tokens, precision"]
    assert [(row["tokens"], row["precision"], row["recall"]) for row in tokens] == [
        (one.count, one.precision, one.recall) for one in found.tokens
    ]
    nearest = tables["code, cosine, tokens"]
    assert [row["code"] for row in nearest] == [f"{busy[0]}={one.code}" for one in found.neighbours]
    np.testing.assert_allclose([row["cosine"] for row in nearest], [one.cosine for one in found.neighbours])
    related = tables["code, share, 95 %"]
    assert [(row["code"], row["lift"]) for row in related] == [
        (f"{one.book}={one.code}", one.lift) for one in found.related
    ]
    documents = tables["share, with it, of"]
    assert [(row["document"], row["with it"], row["of"]) for row in documents] == [
        (one.document, one.count, one.length) for one in found.coverage
    ]
    lens = logit_lens(index, model, *busy)
    assert [row["logit"] for row in tables["token, up, logit"]] == pytest.approx([v for _, v in lens.up])
    assert [row["logit"] for row in tables["token, down, logit"]] == pytest.approx([v for _, v in lens.down])
    assert app.get("plotly_chart")[0].proto.alt.startswith("Similarities of {}={}".format(*busy))
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    silent, fired = chart["data"]
    assert (silent["name"], fired["name"]) == ("not fired, a sample", "fired")
    np.testing.assert_allclose(
        _values(fired["y"]), 100 * found.similarities.fired / found.similarities.fired.sum()
    )
    assert sum(_values(fired["y"])) == pytest.approx(100) == sum(_values(silent["y"]))
    assert chart["layout"]["xaxis"]["title"]["text"] == "cosine similarity with the code"
    [link] = app.get("page_link")
    assert link.proto.query_string == f"books=books&codes={busy[0]}%3D{busy[1]}&source=by+name"


def _values(values) -> list[float]:
    """Plotly's arrays may be packed."""
    if isinstance(values, dict):
        import base64

        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return values


def _framed(strips: str) -> list[str]:
    """The texts of the tokens that have a frame."""
    return [html.unescape(text) for text in re.findall(r'<span style="[^"]*outline[^"]*">([^<]*)', strips)]


@pytest.mark.parametrize("order", ["clearest", "most similar"])
def test_contexts_by_each_order(page, index, busy, order):
    app = page(code="{}={}".format(*busy), order=order)
    top = index.top(*busy, {"clearest": "margin", "most similar": "similarity"}[order])
    [strips] = html_of(app)
    numbers = re.findall(r">(-?\d\.\d\d)</span>", strips)
    wanted = [f"{value:.2f}" for pair in zip(top.margin, top.similarity, strict=True) for value in pair]
    assert numbers == wanted and len(_framed(strips)) == len(top.tokens)
    assert f"{len(top.tokens)} of {index.count(*busy)} shown" in captions(app)


def test_exactly_as_many_contexts_as_are_asked_for(page, index, busy):
    """The anchor showed one for "all", unmarked, and two more than asked for."""
    n = index.count(*busy)
    assert n > 60
    app = page(code="{}={}".format(*busy), order="all, in order")
    shown = _framed(html_of(app)[0])
    assert len(shown) == 25 and f"25 of {n} shown" in captions(app)
    wanted = [context.pieces[context.focus] for context in code_contexts(index, *busy, "corpus", 25)]
    assert [text for text in shown if text.isalnum()] == [
        text.strip() for text in wanted if text.strip().isalnum()
    ]
    app.get("pagination")[0].set_value(2).run()
    assert f"{min(25, n - 25)} of {n} shown, 26 to {min(50, n)}" in captions(app)
    app = page(code="{}={}".format(*busy), order="evenly spread", contexts="7")
    assert len(_framed(html_of(app)[0])) == 7 and f"7 of {n} shown" in captions(app)


def test_the_next_code_is_one_that_occurs(page, index):
    begin = index.layout.code("a1.h2", 0)
    there = np.flatnonzero(index.counts[begin : begin + 12]).tolist()
    app = page(code=f"a1.h2={there[0]}")
    assert button(app, "Previous").disabled
    for code in there[1:3]:
        button(app, "Next").click().run()
        assert code_of(app) == f"a1.h2={code}" and not app.exception
    button(app, "Previous").click().run()
    assert code_of(app) == f"a1.h2={there[1]}"
    button(app, "Search").click().run()
    assert code_of(app) is None and app.title[0].value == "Codes"


def test_the_address_says_all(page, index):
    """As a browser has it when these are chosen; that they get there is a journey of ``tests/browser``."""
    app = page(q="Mary", sort="tokens", precision="0.01", rows="7")
    shown = [row["code"] for row in tables_of(app)["code, precision, P 95 %"]]
    best = search_regex(index, "Mary").best(7, sort="count", min_precision=0.01)
    assert shown == [f"{hit.book}={hit.code}" for hit in best]
    app.text_input(key="q").set_value("John").run()
    best = search_regex(index, "John").best(7, sort="count", min_precision=0.01)
    shown = [row["code"] for row in tables_of(app)["code, precision, P 95 %"]]
    assert shown == [f"{hit.book}={hit.code}" for hit in best]


def test_star_and_note_are_those_of_the_code_that_is_shown(page, runs, index, busy):
    """The anchor kept the code of another panel."""
    second = search_regex(index, "Mary").best(2)[1]
    app = page(runs, code=f"{second.book}={second.code}", q="Mary")
    app.button(key="star").click().run()
    annotations = Annotations(runs / "annotations.json", index.manifest["books"]["fingerprint"])
    assert annotations.all() == {(second.book, second.code): Annotation(True, "")}
    app.text_area[0].set_value(EVIL)
    button(app, "Keep the note").click().run()
    assert annotations.all() == {(second.book, second.code): Annotation(True, EVIL)}
    button(app, "Search").click().run()
    kept = tables_of(app)["code, star, note"]
    assert kept == [
        {"code": f"{second.book}={second.code}", "star": "★", "note": EVIL, "tokens": second.count}
    ]
    app = page(runs, q="Mary")
    marks = {row["code"]: row["kept"] for row in tables_of(app)["code, precision, P 95 %"]}
    assert marks.pop(f"{second.book}={second.code}").startswith("★ <script>") and not any(marks.values())
    # unstarred on another one's page nothing happens to it
    app = page(runs, code="{}={}".format(*busy))
    app.button(key="star").click().run()
    app.button(key="star").click().run()
    assert annotations.all() == {(second.book, second.code): Annotation(True, EVIL)}


def test_damaged_notes_do_not_hide_the_rest(page, runs, busy):
    (runs / "annotations.json").write_text("{")
    app = page(runs, code="{}={}".format(*busy))
    assert "annotations.json is damaged" in unescaped(app.error[0].value) and app.metric
    app.button(key="star").click().run()
    assert any("is damaged" in error.value for error in app.error)
    assert (runs / "annotations.json").read_text() == "{"


def test_notes_that_are_a_link_to_another_place_are_neither_read_nor_written(page, runs, busy):
    elsewhere = runs.parent / "annotations.json"
    elsewhere.write_text("{}")
    (runs / "annotations.json").symlink_to(elsewhere)
    app = page(runs, code="{}={}".format(*busy))
    assert "annotations.json is a link to another place" in unescaped(app.error[0].value) and app.metric
    app.button(key="star").click().run()
    assert not app.exception and elsewhere.read_text() == "{}" and (runs / "annotations.json").is_symlink()


def test_markup_in_a_corpus_and_a_name_is_shown_as_text(page, busy, index):
    scores = search_regex(index, "script")
    for address in ({"q": "script"}, {"code": "{}={}".format(*busy), "order": "all, in order"}):
        app = page(**address)
        strips = "".join(html_of(app))
        assert "&lt;" in strips and not re.search(r"<(?!/?(?:div|span)\b)", strips)
        for element in (*app.caption, *app.markdown, *app.info):
            assert not re.search(r"(?<!\\)<", element.value)
    assert scores.matches.n > 10
    app = page(code=EVIL)
    assert "write SITE=ID" in unescaped(app.error[0].value)
    assert not re.search(r"(?<!\\)[<*!]", app.error[0].value)
    button(app, "Search").click().run()
    assert code_of(app) is None and not app.error


@pytest.mark.parametrize("code", ["a9.h0=1", "a1.h2=99", "a1.h2", "../../etc=1", "", "a1.h2=-1"])
def test_a_code_that_is_not_there_is_one_clear_line(page, code):
    app = page(code=code)
    [error] = app.error
    assert "\n" not in error.value and not app.metric and button(app, "Search")


def test_tables_leave_as_csv(page, busy):
    labels = [button.proto.label for button in page(q="Mary").get("download_button")]
    assert any(label.startswith("All ") and label.endswith(" as CSV") for label in labels)
    labels = [button.proto.label for button in page(code="{}={}".format(*busy)).get("download_button")]
    assert labels == ["These as CSV"]


def test_going_from_code_to_code_takes_no_turn_at_the_model(page, index, monkeypatch):
    """How long a click takes is in ``benchmarks/workbench.py``."""
    app = page(q="Mary")

    def refuse(*_):
        raise AssertionError("a page of a code asked for a turn at the model")

    monkeypatch.setattr(engine, "running", refuse)
    monkeypatch.setattr(engine, "turn", refuse)
    for hit in search_regex(index, "Mary").best(3):
        app.query_params["code"] = f"{hit.book}={hit.code}"
        app.run()
        assert not app.exception and f"{hit.book}={hit.code}" in unescaped(app.title[0].value)
