"""Searching on the page *Codes*: what it shows is what the library finds."""

import re

import pytest

from interp.codesearch import prompt_codes, search_regex, search_similar
from tests.app.codes.conftest import hits_of, named, tables_of
from tests.app.conftest import asked, html_of, unescaped


def test_a_pattern_on_the_page(page, index):
    r"""Escaped and non-capturing parentheses, a character of many bytes before, matches of many tokens."""
    for pattern in (r"🙂 \(New\) (?:York)", r"(?i)\bMARY\b"):
        app = page(q=pattern)
        scores = search_regex(index, pattern)
        assert scores.matches.n > 10
        rows = tables_of(app)["code, precision, P 95 %"]
        best = scores.best(20)
        assert hits_of(app) == named(best) and len(best) > 3
        for row, hit in zip(rows, best, strict=True):
            assert (row["precision"], row["recall"], row["F1"]) == (hit.precision, hit.recall, hit.f1)
            assert row["tokens"] == hit.count and row["in matches"] == hit.hits
            assert row["P 95 %"] == "{:.2f} – {:.2f}".format(*hit.precision_interval)
            assert row["R 95 %"] == "{:.2f} – {:.2f}".format(*hit.recall_interval)
        counts = f"**{scores.matches.n} matches** of {scores.n_tokens} tokens; {len(best)} of "
        every = f"{counts}{len(scores.places())} codes"
        assert any(text.value.startswith(every) for text in app.markdown)


def test_filters_and_order_are_the_librarys_and_stay_for_another_pattern(page, index):
    app = page(q="Mary", sort="precision", recall="0.1", each="1", rows="4", hits_least="2")
    wanted = {"sort": "precision", "min_recall": 0.1, "per_book": 1, "min_hits": 2}
    assert hits_of(app) == named(search_regex(index, "Mary").best(4, **wanted))
    app.text_input(key="q").set_value("John").run()
    assert hits_of(app) == named(search_regex(index, "John").best(4, **wanted))
    for key in ("precision", "recall"):
        app.number_input(key=key).set_value(1.0).run()
        assert not app.exception
    assert "No code is that good" in app.info[0].value
    app = page(q="Mary", sort="tokens", precision="0.01", rows="7")
    assert hits_of(app) == named(search_regex(index, "Mary").best(7, sort="count", min_precision=0.01))


def test_a_code_by_its_name(page, its_name):
    app = page(search="name")
    app.text_input(key="named").set_value(its_name).run()
    assert unescaped(app.title[0].value) == its_name and not app.error


def test_contexts_like_a_token_of_a_prompt(page, index, model):
    prompt = "Mary gave 7 drinks to John"
    app = page(search="prompt", near=prompt, at="1")
    codes = prompt_codes(index, model, prompt, position=1)
    similar = search_similar(index, codes, 15)
    [strips] = html_of(app)
    shown = [float(score) for score in re.findall(r">(\d\.\d\d)<", strips)]
    assert shown == pytest.approx([hit.score for hit in similar], abs=0.006)
    wanted = {(book, int(code)) for book, ids in codes.items() for code in ids if code >= 0}
    rows = tables_of(app)["code, tokens, kept"]
    assert {row["code"] for row in rows} == {f"{book}={code}" for book, code in wanted}
    counts = [row["tokens"] for row in rows if row["tokens"]]
    assert counts == sorted(counts)
    # another token of the prompt
    app.get("button_group")[-1].set_value(0).run()
    assert not app.exception and asked(app, "at") == "0" and html_of(app) != [strips]
    # another prompt begins at its last one
    app.text_input(key="near").set_value("John went to the store").run()
    pills = app.get("button_group")[-1]
    assert pills.value == len(pills.options) - 1 > 1 and "at" not in app.query_params
