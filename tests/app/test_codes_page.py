"""The page *Codes*: what it shows is what the library finds; what a corpus, a note or an address holds is text.

Defects of the anchor's pages (codebook-features' Streamlit app), and the test that shows each absent:

1. "all" shows one example, N show N + 2: ``test_exactly_as_many_contexts_as_are_asked_for`` here, and
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
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import streamlit as st

from interp.app import code_build, engine
from interp.bottlenecks.book_folder import load_codebooks
from interp.codesearch import (
    CodeIndex,
    build_index,
    code_contexts,
    code_page,
    logit_lens,
    prompt_codes,
    search_regex,
    search_similar,
    search_token,
)
from interp.codesearch.notes import Note, Notes
from interp.models import load_model
from interp.text import load_text
from tests.app.conftest import html_of

EVIL = "<script>alert(1)</script> *a* ![x](https://example.org)"
DOCUMENTS = [f"Mary gave {n} drinks to John. Zürich 🙂 (New) York {EVIL} number {7 * n}." for n in range(60)]
NAME = "index <b>"


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_model(str(tiny_model_folder("llama")))


@pytest.fixture(scope="module")
def saved(runs_with_books, model, tmp_path_factory) -> Path:
    """A runs folder with codebooks, an index of texts that try to be markup, and its copy under another name."""
    folder = tmp_path_factory.mktemp("indexes") / "runs"
    shutil.copytree(runs_with_books / "books", folder / "books")
    corpus = folder.parent / "documents.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": document}) for document in DOCUMENTS), encoding="utf-8")
    text = load_text(str(corpus), model, n_tokens=2400, context=40)
    books = load_codebooks(folder / "books", model)
    build_index(model, books, text, folder / NAME, books_folder=folder / "books", batch_size=8)
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


@pytest.fixture
def page(open_page, saved):
    return lambda runs=saved, **address: open_page("codes", runs, **address)


def _code(app) -> str | None:
    found = app.query_params.get("code")
    return found[0] if isinstance(found, list) else found


def _tables(app) -> dict[str, list]:
    """Rows of the tables, by their first columns' names."""
    return {
        ", ".join(table.value.columns[:3]): table.value.to_dict("records")
        for table in app.dataframe
        if len(table.value.columns)
    }


def _plain(text: str) -> str:
    """Markdown's escapes undone."""
    return re.sub(r"\\(.)", r"\1", text)


def _button(app, label: str):
    return next(button for button in app.button if button.label == label)


def _captions(app) -> str:
    return _plain(" ".join(caption.value for caption in app.caption))


def test_without_an_index_it_offers_to_build_one(page, tmp_path):
    app = page(tmp_path)
    assert "No code index yet" in app.info[0].value
    assert _button(app, "Build the index")
    assert app.code[0].value.startswith("interp index build --data stdlib --tokens 24000")
    assert f"--out {tmp_path}/index-" in app.code[0].value
    assert app.selectbox(key="build books").options == ["those of the package"]
    assert not app.dataframe and not app.error


def _built(app):
    """The page once the build behind it has ended."""
    until = time.monotonic() + 60
    while code_build.running() is not None and time.monotonic() < until:
        code_build.running().join(1)
    return app.run()


def test_an_index_is_built_on_the_page(page, runs, model):
    shutil.rmtree(runs / NAME)
    app = page(runs)
    app.selectbox(key="build books").set_value("books")
    app.selectbox(key="build tokens").set_value(8_000).run()
    command = app.code[0].value
    _button(app, "Build the index").click().run()
    assert not app.exception
    built = code_build.Plan("books", 8_000).folder
    assert built.name in command
    app = _built(app)
    assert not app.exception and not app.error
    assert app.selectbox(key="index").options == [built.name]
    index = CodeIndex.open(built)
    assert (
        index.n_tokens == 8_000 // 128 * 128 or index.n_tokens == 8_000 // model.cfg.n_ctx * model.cfg.n_ctx
    )
    index.check_model(model)
    assert f"{index.n_tokens:,} tokens in" in _captions(app)
    assert code_build.running() is None


def test_a_build_without_codebooks_says_why(page, runs):
    shutil.rmtree(runs / NAME)
    app = page(runs)
    _button(app, "Build the index").click().run()
    app = _built(app)
    assert "no codebooks come with the package" in _plain(app.error[0].value)
    assert not list(runs.glob("index*")) and _button(app, "Build the index")


def test_a_build_that_was_killed_goes_on(page, runs):
    app = page(runs)
    plan = code_build.Plan("books", 8_000)

    class Killed(Exception):  # noqa: N818 - as if the process had ended
        pass

    build = code_build.Build(plan)
    stage = build._stage

    def killing(name, total):
        if name == "listing codes":
            raise Killed
        return stage(name, total)

    build._stage = killing
    build.run()
    assert isinstance(build.error, Killed) and (plan.folder / ".work").is_dir()
    app = page(runs, index=plan.folder.name)
    assert "not finished" in _plain(app.error[0].value)
    assert NAME in app.selectbox(key="index").options
    _button(app, "Go on building it").click().run()
    app = _built(app)
    assert not app.error and app.selectbox(key="index").value == plan.folder.name
    assert CodeIndex.open(plan.folder).n_tokens > 0


def test_a_pattern_on_the_page(page, index):
    r"""Escaped and non-capturing parentheses, a character of many bytes before, matches of many tokens."""
    for pattern in (r"🙂 \(New\) (?:York)", r"(?i)\bMARY\b"):
        app = page(q=pattern)
        scores = search_regex(index, pattern)
        assert scores.matches.n > 10
        every = scores.places()
        rows = _tables(app)["code, precision, P 95 %"]
        best = scores.best(20)
        assert len(rows) == len(best) > 3
        for row, hit in zip(rows, best, strict=True):
            assert row["code"] == f"{hit.book}:{hit.code}"
            assert (row["precision"], row["recall"], row["F1"]) == (hit.precision, hit.recall, hit.f1)
            assert row["tokens"] == hit.count and row["in matches"] == hit.hits
            assert row["P 95 %"] == "{:.2f} – {:.2f}".format(*hit.precision_interval)
            assert row["R 95 %"] == "{:.2f} – {:.2f}".format(*hit.recall_interval)
        counts = (
            f"**{scores.matches.n} matches** of {scores.n_tokens} tokens; {len(best)} of {len(every)} codes"
        )
        assert any(text.value.startswith(counts) for text in app.markdown)


def test_a_code_that_was_found_is_opened_from_the_keyboard(page, index):
    app = page(q="Mary")
    best = search_regex(index, "Mary").best(2)[1]
    app.selectbox(key="open").select(f"{best.book}:{best.code}").run()
    assert not app.exception and _code(app) == f"{best.book}:{best.code}"
    _button(app, "Search").click().run()
    assert app.selectbox(key="open").value is None


def test_filters_and_order_are_the_librarys(page, index):
    app = page(q="Mary", sort="precision", recall="0.1", each="1", rows="4", hits_least="2")
    wanted = search_regex(index, "Mary").best(4, sort="precision", min_recall=0.1, per_book=1, min_hits=2)
    shown = [row["code"] for row in _tables(app)["code, precision, P 95 %"]]
    assert shown == [f"{hit.book}:{hit.code}" for hit in wanted]
    app.number_input(key="precision").set_value(1.0).run()
    assert not app.exception
    app.number_input(key="recall").set_value(1.0).run()
    assert "No code is that good" in app.info[0].value


def test_a_token_on_the_page(page, index):
    corpus = index.corpus
    often = np.argsort(-corpus.token_counts)
    text = next(
        text
        for text in (corpus.token_text(int(token)).strip() for token in often)
        if len(text) > 1 and text.isalpha()
    )
    app = page(search="token", token=text)
    best = search_token(index, text).best(20)
    rows = _tables(app)["code, precision, P 95 %"]
    assert [(row["code"], row["F1"]) for row in rows] == [(f"{h.book}:{h.code}", h.f1) for h in best]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"q": "(" + EVIL}, "unclosed group"),
        ({"q": r"(a)\1"}, "backreferences are not supported"),
        ({"search": "token", "token": EVIL}, "is no single token: search it as a regular expression"),
        ({"search": "prompt", "near": "a b " * 100}, "this page reads at most 128"),
    ],
)
def test_what_cannot_be_searched_is_one_clear_line(page, address, message):
    app = page(**address)
    [error] = app.error
    assert message in _plain(error.value) and "\n" not in error.value
    assert not re.search(r"(?<!\\)[<*!]", error.value) and not app.dataframe


def test_examples_are_a_click_away(page):
    app = page()
    assert not app.dataframe
    label = r"\b(not|no|never)\b"
    next(button for button in app.button if _plain(button.label) == label).click().run()
    assert app.text_input(key="q").value == label and not app.exception
    assert app.query_params["q"] in (label, [label])


def test_a_code_by_its_name(page, busy):
    app = page(search="name")
    app.text_input(key="named").set_value("{}={}".format(*busy)).run()
    assert app.title[0].value == r"{}\:{}".format(busy[0].replace(".", r"\."), busy[1])
    assert not app.error


def test_contexts_like_a_token_of_a_prompt(page, index, model):
    prompt = "Mary gave 7 drinks to John"
    app = page(search="prompt", near=prompt, at="1")
    codes = prompt_codes(index, model, prompt, position=1)
    similar = search_similar(index, codes, 15)
    [strips] = html_of(app)
    assert [float(score) for score in re.findall(r">(\d\.\d\d)<", strips)] == [
        pytest.approx(one.score, abs=0.006) for one in similar
    ]
    wanted = {(book, int(code)) for book, its in codes.items() for code in its if code >= 0}
    rows = _tables(app)["code, tokens, kept"]
    assert {row["code"] for row in rows} == {f"{book}:{code}" for book, code in wanted}
    assert [row["tokens"] for row in rows if row["tokens"]] == sorted(
        row["tokens"] for row in rows if row["tokens"]
    )
    # another token of the prompt
    app.get("button_group")[-1].set_value(0).run()
    assert app.query_params["at"] in ("0", ["0"]) and html_of(app) != [strips]


def test_the_page_of_a_code_shows_what_the_library_finds(page, index, busy, model):
    app = page(code="{}:{}".format(*busy))
    found = code_page(index, *busy, model=model)
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics == {
        "Tokens with it": str(found.count),
        "Share of tokens": f"{found.frequency:.3%}",
        "Documents": f"{found.n_documents} of {len(index.corpus.documents)}",
        "Clearest margin": f"{found.contexts[0].margin:.2f}",
    }
    tables = _tables(app)
    tokens = tables["token, tokens, precision"]
    assert [(row["tokens"], row["precision"], row["recall"]) for row in tokens] == [
        (one.count, one.precision, one.recall) for one in found.tokens
    ]
    nearest = tables["code, cosine, tokens"]
    assert [row["code"] for row in nearest] == [f"{busy[0]}:{one.code}" for one in found.neighbours]
    np.testing.assert_allclose([row["cosine"] for row in nearest], [one.cosine for one in found.neighbours])
    related = tables["code, share, 95 %"]
    assert [(row["code"], row["lift"]) for row in related] == [
        (f"{one.book}:{one.code}", one.lift) for one in found.related
    ]
    documents = tables["share, with it, of"]
    assert [(row["document"], row["with it"], row["of"]) for row in documents] == [
        (one.document, one.count, one.length) for one in found.coverage
    ]
    lens = logit_lens(index, model, *busy)
    assert [row["logit"] for row in tables["token, up, logit"]] == pytest.approx([v for _, v in lens.up])
    assert [row["logit"] for row in tables["token, down, logit"]] == pytest.approx([v for _, v in lens.down])
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    silent, fired = chart["data"]
    assert (silent["name"], fired["name"]) == ("not fired, a sample", "fired")
    np.testing.assert_allclose(
        _values(fired["y"]), 100 * found.similarities.fired / found.similarities.fired.sum()
    )
    assert sum(_values(fired["y"])) == pytest.approx(100) == sum(_values(silent["y"]))
    assert chart["layout"]["xaxis"]["title"]["text"] == "cosine similarity with the code"
    [link] = app.get("page_link")
    assert link.proto.query_string == f"codes={busy[0]}%3D{busy[1]}&source=by+name"


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
    app = page(code="{}:{}".format(*busy), order=order)
    top = index.top(*busy, {"clearest": "margin", "most similar": "similarity"}[order])
    [strips] = html_of(app)
    numbers = re.findall(r">(-?\d\.\d\d)</span>", strips)
    wanted = [f"{value:.2f}" for pair in zip(top.margin, top.similarity, strict=True) for value in pair]
    assert numbers == wanted and len(_framed(strips)) == len(top.tokens)
    assert f"{len(top.tokens)} of {index.count(*busy)} shown" in _captions(app)


def test_exactly_as_many_contexts_as_are_asked_for(page, index, busy):
    """The anchor showed one for "all", unmarked, and two more than asked for."""
    n = index.count(*busy)
    assert n > 60
    app = page(code="{}:{}".format(*busy), order="all, in order")
    shown = _framed(html_of(app)[0])
    assert len(shown) == 25 and f"25 of {n} shown" in _captions(app)
    wanted = [context.pieces[context.focus] for context in code_contexts(index, *busy, "corpus", 25)]
    assert [text for text in shown if text.isalnum()] == [
        text.strip() for text in wanted if text.strip().isalnum()
    ]
    app.get("pagination")[0].set_value(2).run()
    assert f"{min(25, n - 25)} of {n} shown, 26 to {min(50, n)}" in _captions(app)
    app = page(code="{}:{}".format(*busy), order="evenly spread", contexts="7")
    assert len(_framed(html_of(app)[0])) == 7 and f"7 of {n} shown" in _captions(app)


def test_the_next_code_is_one_that_occurs(page, index):
    begin = index.layout.code("a1.h2", 0)
    there = np.flatnonzero(index.counts[begin : begin + 12]).tolist()
    app = page(code=f"a1.h2:{there[0]}")
    assert _button(app, "Previous").disabled
    for code in there[1:3]:
        _button(app, "Next").click().run()
        assert _code(app) == f"a1.h2:{code}" and not app.exception
    _button(app, "Previous").click().run()
    assert _code(app) == f"a1.h2:{there[1]}"
    _button(app, "Search").click().run()
    assert _code(app) is None and app.title[0].value == "Codes"


def test_the_address_says_all(page, index):
    """As a browser has it when these are chosen; that they get there is a journey of ``tests/browser``."""
    app = page(q="Mary", sort="tokens", precision="0.01", rows="7")
    shown = [row["code"] for row in _tables(app)["code, precision, P 95 %"]]
    best = search_regex(index, "Mary").best(7, sort="count", min_precision=0.01)
    assert shown == [f"{hit.book}:{hit.code}" for hit in best]
    app.text_input(key="q").set_value("John").run()
    best = search_regex(index, "John").best(7, sort="count", min_precision=0.01)
    shown = [row["code"] for row in _tables(app)["code, precision, P 95 %"]]
    assert shown == [f"{hit.book}:{hit.code}" for hit in best]


def test_star_and_note_are_those_of_the_code_that_is_shown(page, runs, index, busy):
    """The anchor kept the code of another panel."""
    second = search_regex(index, "Mary").best(2)[1]
    app = page(runs, code=f"{second.book}:{second.code}", q="Mary")
    app.button(key="star").click().run()
    notes = Notes(runs / "notes.json", index.manifest["books"]["fingerprint"])
    assert notes.all() == {(second.book, second.code): Note(True, "")}
    app.text_area[0].set_value(EVIL)
    _button(app, "Keep the note").click().run()
    assert notes.all() == {(second.book, second.code): Note(True, EVIL)}
    _button(app, "Search").click().run()
    kept = _tables(app)["code, star, note"]
    assert kept == [
        {"code": f"{second.book}:{second.code}", "star": "★", "note": EVIL, "tokens": second.count}
    ]
    app = page(runs, q="Mary")
    marks = {row["code"]: row["kept"] for row in _tables(app)["code, precision, P 95 %"]}
    assert marks.pop(f"{second.book}:{second.code}").startswith("★ <script>") and not any(marks.values())
    # unstarred on another one's page nothing happens to it
    app = page(runs, code="{}:{}".format(*busy))
    app.button(key="star").click().run()
    app.button(key="star").click().run()
    assert notes.all() == {(second.book, second.code): Note(True, EVIL)}


def test_damaged_notes_do_not_hide_the_rest(page, runs, busy):
    (runs / "notes.json").write_text("{")
    app = page(runs, code="{}:{}".format(*busy))
    assert "notes.json is damaged" in _plain(app.error[0].value) and app.metric
    app.button(key="star").click().run()
    assert any("is damaged" in error.value for error in app.error)
    assert (runs / "notes.json").read_text() == "{"


def test_markup_in_a_corpus_and_a_name_is_shown_as_text(page, busy, index):
    scores = search_regex(index, "script")
    for address in ({"q": "script"}, {"code": "{}:{}".format(*busy), "order": "all, in order"}):
        app = page(**address)
        strips = "".join(html_of(app))
        assert "&lt;" in strips and not re.search(r"<(?!/?(?:div|span)\b)", strips)
        for element in (*app.caption, *app.markdown, *app.info):
            assert not re.search(r"(?<!\\)<", element.value)
    assert scores.matches.n > 10
    app = page(code=EVIL)
    assert "write BOOK:CODE" in _plain(app.error[0].value)
    assert not re.search(r"(?<!\\)[<*!]", app.error[0].value)
    _button(app, "Search").click().run()
    assert _code(app) is None and not app.error


@pytest.mark.parametrize("code", ["a9.h0:1", "a1.h2:99", "a1.h2", "../../etc:1", "", "a1.h2:-1"])
def test_a_code_that_is_not_there_is_one_clear_line(page, code):
    app = page(code=code)
    [error] = app.error
    assert "\n" not in error.value and not app.metric and _button(app, "Search")


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "books", f"{NAME}/../../elsewhere"])
def test_an_address_cannot_name_an_index_outside_the_runs_folder(page, runs, name):
    shutil.copytree(runs / NAME, runs.parent / "elsewhere")
    app = page(runs, index=name)
    assert app.selectbox(key="index").value == NAME and app.selectbox(key="index").options == [NAME]


@pytest.mark.parametrize("damage", ["truncated", "format", "missing", "cut", "unfinished", "link"])
def test_a_damaged_index_is_a_card_and_others_stay_reachable(page, runs, damage):
    broken = runs / "broken"
    shutil.copytree(runs / NAME, broken)
    manifest = broken / "manifest.json"
    if damage == "truncated":
        manifest.write_text(manifest.read_text()[:100])
    elif damage == "format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    elif damage == "missing":
        (broken / "ids.npy").unlink()
    elif damage == "cut":
        (broken / "tokens.npy").write_bytes((broken / "tokens.npy").read_bytes()[:-5])
    elif damage == "link":
        (broken / "tokens.npy").rename(runs.parent / "tokens.npy")
        (broken / "tokens.npy").symlink_to(runs.parent / "tokens.npy")
    else:
        manifest.unlink()
    app = page(runs, index="broken")
    [error] = app.error
    assert "broken" in error.value and "\n" not in error.value and not app.dataframe
    assert "delete its folder and build it again" in _captions(app)
    app.selectbox(key="index").set_value(NAME).run()
    assert not app.error and f"{CodeIndex.open(runs / NAME).n_tokens:,} tokens in" in _captions(app)


def test_an_index_of_another_model_is_searched_but_no_prompt_is_read(page, runs):
    manifest = runs / NAME / "manifest.json"
    found = json.loads(manifest.read_text())
    found["model"] |= {"spec": "another<b>", "weights": "0"}
    manifest.write_text(json.dumps(found))
    app = page(runs, q="Mary")
    assert not app.error and app.dataframe
    app = page(runs, search="prompt", near="Mary")
    [error] = app.error
    assert "is an index of another<b>" in _plain(error.value) and "<" not in error.value.replace(r"\<", "")
    app = page(runs, code="a0.h1:3")
    assert not app.error and "is an index of another<b>" in _captions(app)


def test_codebooks_elsewhere_are_not_read(page, runs):
    """A foreign index may name any folder of this machine."""
    shutil.copytree(runs / "books", runs.parent / "books elsewhere")
    manifest = runs / NAME / "manifest.json"
    found = json.loads(manifest.read_text())
    found["books"]["folder"] = str(runs.parent / "books elsewhere")
    manifest.write_text(json.dumps(found))
    app = page(runs, code="a0.h1:3")
    assert not app.error and "not among the folders that are read" in _captions(app)
    assert "code, cosine, tokens" not in _tables(app)


def test_tables_leave_as_csv(page, busy):
    labels = [button.proto.label for button in page(q="Mary").get("download_button")]
    assert any(label.startswith("All ") and label.endswith(" as CSV") for label in labels)
    labels = [button.proto.label for button in page(code="{}:{}".format(*busy)).get("download_button")]
    assert labels == ["These as CSV"]


def test_going_from_code_to_code_takes_no_turn_at_the_model(page, index, monkeypatch):
    """How long a click takes is in ``benchmarks/workbench.py``."""
    app = page(q="Mary")

    def refuse(*_):
        raise AssertionError("a page of a code asked for a turn at the model")

    monkeypatch.setattr(engine, "running", refuse)
    monkeypatch.setattr(engine, "turn", refuse)
    for hit in search_regex(index, "Mary").best(3):
        app.query_params["code"] = f"{hit.book}:{hit.code}"
        app.run()
        assert not app.exception and f"{hit.book}:{hit.code}" in _plain(app.title[0].value)


@pytest.fixture(autouse=True)
def _fresh():
    """Caches are the process's: no test sees another one's index."""
    yield
    st.cache_resource.clear()
