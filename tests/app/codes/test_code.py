"""The page *Codes*: what it shows is what the library finds; what a corpus, a note or an address holds is text."""

import html
import json
import re
from dataclasses import asdict

import numpy as np
import pytest

from interp.codesearch import code_page, logit_lens, search_regex
from interp.codesearch.annotations import Annotation, Annotations
from interp.codesearch.explain import FILE, Explanation
from tests.app.codes.conftest import EVIL, NAME, named, tables_of
from tests.app.conftest import array_of, asked, button_of, error_of, html_of, plot_of, press, text_of, unescaped


def test_the_page_of_a_code_shows_what_the_library_finds(page, index, busy, its_name, model):
    app = page(code=its_name)
    facts = code_page(index, *busy)
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics == {
        "Tokens with it": str(facts.count),
        "Share of tokens": f"{facts.frequency:.3%}",
        "Documents": f"{facts.n_documents} of {len(index.corpus.documents)}",
        "Clearest margin": f"{facts.contexts[0].margin:.2f}",
    }
    tables = tables_of(app)
    tokens = tables["token, tokens, precision"]
    assert [(row["tokens"], row["precision"], row["recall"]) for row in tokens] == [
        (token.count, token.precision, token.recall) for token in facts.tokens
    ]
    nearest = [(row["code"], row["cosine"]) for row in tables["code, cosine, tokens"]]
    assert nearest == [(f"{busy[0]}={near.code}", pytest.approx(near.cosine)) for near in facts.neighbours]
    related = tables["code, share, 95 %"]
    assert [(row["code"], row["lift"]) for row in related] == [
        (f"{related_code.book}={related_code.code}", related_code.lift) for related_code in facts.related
    ]
    lens = logit_lens(index, model, *busy)
    assert [row["logit"] for row in tables["token, up, logit"]] == pytest.approx([v for _, v in lens.up])
    assert [row["logit"] for row in tables["token, down, logit"]] == pytest.approx([v for _, v in lens.down])
    chart = plot_of(app)
    silent, fired = chart["data"]
    assert (silent["name"], fired["name"]) == ("not fired, a sample", "fired")
    shares = 100 * facts.similarities.fired / facts.similarities.fired.sum()
    np.testing.assert_allclose(array_of(fired["y"]), shares)
    assert array_of(silent["y"]).sum() == pytest.approx(100)
    [link] = app.get("page_link")
    assert link.proto.query_string == f"books=books&codes={busy[0]}%3D{busy[1]}&source=by+name"


def _framed(strips: str) -> list[str]:
    """The texts of the tokens that have a frame."""
    return [html.unescape(text) for text in re.findall(r'<span style="[^"]*outline[^"]*">([^<]*)', strips)]


@pytest.mark.parametrize(("order", "by"), [("clearest", "margin"), ("most similar", "similarity")])
def test_contexts_by_each_order(page, index, busy, its_name, order, by):
    app, top = page(code=its_name, order=order), index.top(*busy, by)
    [strips] = html_of(app)
    numbers = re.findall(r">(-?\d\.\d\d)</span>", strips)
    wanted = [f"{value:.2f}" for pair in zip(top.margin, top.similarity, strict=True) for value in pair]
    assert numbers == wanted and len(_framed(strips)) == len(top.tokens)
    assert f"{len(top.tokens)} of {index.count(*busy)} shown" in text_of(app)


def test_the_next_code_is_one_that_occurs(page, index):
    begin = index.layout.code("a1.h2", 0)
    occurring = np.flatnonzero(index.counts[begin : begin + 12]).tolist()
    app = page(code=f"a1.h2={occurring[0]}")
    assert button_of(app, "Previous").disabled
    for code in occurring[1:3]:
        assert asked(press(app, "Next"), "code") == f"a1.h2={code}"
    assert asked(press(app, "Previous"), "code") == f"a1.h2={occurring[1]}"
    press(app, "Search")
    assert asked(app, "code") is None and app.title[0].value == "Codes"


def test_star_and_note_are_those_of_the_code_that_is_shown(page, runs, index, its_name):
    second = search_regex(index, "Mary").best(2)[1]
    [name] = named([second])
    app = page(runs, code=name, q="Mary")
    app.button(key="star").click().run()
    annotations = Annotations(runs / "annotations.json", index.manifest["books"]["fingerprint"])
    assert annotations.all() == {(second.book, second.code): Annotation(True, "")}
    app.text_area[0].set_value(EVIL)
    press(app, "Keep the note")
    assert annotations.all() == {(second.book, second.code): Annotation(True, EVIL)}
    kept = tables_of(press(app, "Search"))["code, star, note"]
    assert kept == [{"code": name, "star": "★", "note": EVIL, "tokens": second.count}]
    rows = tables_of(page(runs, q="Mary"))["code, precision, P 95 %"]
    marks = {row["code"]: row["kept"] for row in rows}
    assert marks.pop(name).startswith("★ <script>") and not any(marks.values())
    # unstarred on another one's page nothing happens to it
    app = page(runs, code=its_name)
    for _ in range(2):
        app.button(key="star").click().run()
    assert annotations.all() == {(second.book, second.code): Annotation(True, EVIL)}


@pytest.mark.parametrize("wrong", ["is damaged", "is a link to another place"])
def test_damaged_notes_and_a_link_do_not_hide_the_rest_and_stay_as_they_are(page, runs, its_name, wrong):
    notes = runs / "annotations.json"
    notes.write_text("{")
    if "link" in wrong:
        notes.symlink_to(notes.rename(runs.parent / notes.name))
    app = page(runs, code=its_name)
    assert f"annotations.json {wrong}" in unescaped(app.error[0].value) and app.metric
    app.button(key="star").click().run()
    assert not app.exception and any(wrong in error.value for error in app.error)
    assert notes.read_text() == "{" and notes.is_symlink() == ("link" in wrong)


def test_markup_in_a_corpus_and_a_name_is_shown_as_text(page, its_name, index):
    assert search_regex(index, "script").matches.n > 10
    for address in ({"q": "script"}, {"code": its_name, "order": "all, in order"}):
        app = page(**address)
        strips = "".join(html_of(app))
        assert "&lt;" in strips and not re.search(r"<(?!/?(?:div|span)\b)", strips)
        for element in (*app.caption, *app.markdown, *app.info):
            assert not re.search(r"(?<!\\)<", element.value)


@pytest.mark.parametrize("code", ["a9.h0=1", "a1.h2=99", "a1.h2", "../../etc=1", "", "a1.h2=-1", EVIL])
def test_a_code_that_is_not_there_is_one_clear_line(page, code):
    app = page(code=code)
    assert error_of(app) and not app.metric
    press(app, "Search")
    assert asked(app, "code") is None and not app.error


def test_what_a_language_model_said_of_it_is_text(page, runs, index, its_name):
    path = runs / NAME / FILE
    explanation = asdict(Explanation(EVIL, "small", 0, 0.9, 0.8, 0.85, 0.1, 20))
    path.write_text(
        json.dumps({"books": index.manifest["books"]["fingerprint"], "explanations": {its_name: explanation}})
    )
    sentence = f"small says “{EVIL}”   (detection F1 0.85 at 20 tokens of other text, 0.10 with another code's words)"
    # U+2060 keeps addresses from being links
    assert sentence in text_of(page(runs, code=its_name)).replace("\u2060", "")
    path.write_text("[]")
    assert "damaged" in error_of(page(runs, code=its_name))
