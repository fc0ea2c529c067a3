"""The page *Steering*: base and steered as the library makes them, and nothing it is given becomes markup."""

import html
import json
import re
import shlex
import shutil
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest

from interp.app import engine
from interp.bottlenecks.attach import attach
from interp.bottlenecks.store import Codebooks
from interp.steering import SetCode, parse_codes
from interp.steering.cache import identity
from interp.steering.code_set import SCALE
from interp.steering.continuations import continue_prompts, encode_prompts, step_divergences
from interp.steering.request import random_codes
from tests.app.conftest import array_of, error_of, files_of, html_of, plain_html, plot_of, press, text_of

CODES = "a0.h1=3, a1.h2=5"
WORDS = ("to", "from", "in", "at", "by", "of")


@pytest.fixture
def page(open_page, runs_with_books):
    return lambda **address: open_page("steering", runs_with_books, **address)


def _press(app):
    """Steer, with few tokens."""
    app.number_input(key="tokens").set_value(8)
    return press(app, "Steer")


def _measured(app) -> str:
    """The line on how often the preset worked."""
    [line] = [caption.value for caption in app.caption if "to the store" in caption.value]
    return line


def test_base_and_steered_are_what_the_library_makes_of_them(page, runs_with_books, model, capsys, command):
    before = files_of(runs_with_books)
    app = page()
    assert "Nothing steered yet" in text_of(app)
    app.text_area(key="prompt").set_value("John went to")
    app.text_area(key="codes").set_value(CODES)
    app.number_input(key="seed").set_value(4)
    _press(app)
    assert not app.error
    books = Codebooks.from_pretrained(runs_with_books / "books", model)
    edits = [SetCode("a0.h1", 3, rows=[1]), SetCode("a1.h2", 5, rows=[1])]
    within = attach(model, books, read=False).edit(*edits, seed=4)
    base, steered = continue_prompts(model, ["John went to"] * 2, 8, within=within, seed=4)
    assert base.tokens != steered.tokens
    ids = encode_prompts(model, ["John went to"])[0]
    _, divergence = step_divergences(model, books, edits, ids, [base.tokens, steered.tokens], seed=4)
    assert [(metric.label, metric.value) for metric in app.metric] == [
        ("Perplexity", f"{base.perplexity:.1f}"),
        ("Perplexity", f"{steered.perplexity:.1f}"),
        ("KL per token", f"{divergence.mean():.2f}"),
    ]
    table = app.dataframe[0].value
    assert table["text"].tolist() == ["Base"] * len(base.tokens) + ["Steered"] * len(steered.tokens)
    expected = np.concatenate([base.surprise, steered.surprise])
    np.testing.assert_allclose(table["surprise"].astype(float), expected, atol=1e-5)
    mine = table[table["text"] == "Steered"]
    np.testing.assert_allclose(mine["KL"].astype(float), divergence, atol=1e-5)
    assert "".join(mine["token"]) == steered.text and table["KL"][table["text"] == "Base"].isna().all()
    assert len(app.get("plotly_chart")) == 3
    for number, values in enumerate((base.surprise, steered.surprise, divergence)):
        np.testing.assert_allclose(array_of(plot_of(app, number)["data"][0]["y"]), values, atol=1e-5)
    assert f"mean {divergence.mean():.2f}, largest {divergence.max():.2f} at " in text_of(app)
    left, right = html_of(app)
    assert "codes edited here" not in left
    # the last token of the prompt and all new ones but the last
    assert right.count("codes edited here") == 8 == len(steered.tokens)
    assert "the 8 tokens at which" in text_of(app)
    # the Python that the page gives makes the same, and so does the command line
    exec(app.code[0].value, {})  # noqa: S102 - what the user is told to run
    assert f"{steered.perplexity}" in capsys.readouterr().out
    again = command(*shlex.split(app.code[1].value)[1:])
    assert again.code == 0, again.err
    assert f"perplexity {steered.perplexity:.1f}" in again.out
    assert files_of(runs_with_books) == before


def test_what_was_kept_elsewhere_is_neither_read_nor_written(open_page, runs_with_books, tmp_path):
    runs = Path(shutil.copytree(runs_with_books, tmp_path / "runs"))
    (tmp_path / "elsewhere").mkdir()
    (runs / ".found").symlink_to(tmp_path / "elsewhere")
    app = open_page("steering", runs, source="of texts", positive="a fire", negative="a store")
    _press(app)
    assert "is a link to another place" in app.error[0].value and not list((tmp_path / "elsewhere").iterdir())


def test_the_link_of_a_comparison_has_everything(page, model, runs_with_books):
    app = page()
    app.text_area(key="prompt").set_value("John & <Mary>?")
    app.text_area(key="codes").set_value(CODES)
    app.selectbox(key="positions").set_value("generated")
    app.text_input(key="when").set_value("token:[^a-z]")
    for key, value in (("begin", 3), ("fraction", 0.5), ("seed", 7)):
        app.number_input(key=key).set_value(value)
    app.toggle(key="random_baseline").set_value(True)
    _press(app)
    perplexities = [metric.value for metric in app.metric]
    assert "**Random codes**" in [markdown.value for markdown in app.markdown]
    other = page(**dict(parse_qsl(urlsplit(app.code[2].value).query)))
    assert other.text_area(key="prompt").value == "John & <Mary>?"
    assert other.toggle(key="random_baseline").value
    _press(other)
    assert [metric.value for metric in other.metric] == perplexities
    assert other.code[0].value == app.code[0].value

    # and the library makes the same three texts
    books = Codebooks.from_pretrained(runs_with_books / "books", model)
    codes = parse_codes(CODES)
    rows = enumerate((codes, random_codes(model, books, codes, seed=7)), 1)
    edits = [SetCode(site, code, rows=[row]) for row, some in rows for site, code, _ in some]
    where = {"positions": "generated:3", "fraction": 0.5, "seed": 7, "when": "token:[^a-z]"}
    within = attach(model, books, read=False).edit(*edits, **where)
    texts = continue_prompts(model, ["John & <Mary>?"] * 3, 8, within=within, seed=7)
    strips = [html.unescape(plain_html(strip)) for strip in html_of(app)]
    assert strips == [text.prompt + text.text for text in texts]
    marks = within.edited_positions(3, len(encode_prompts(model, ["John & <Mary>?"])[0]) + 8)[1, :-1]
    assert html_of(app)[1].count("codes edited here") == int(marks.sum()) > 0


@pytest.fixture
def presets(model, runs_with_books, tmp_path, monkeypatch) -> Path:
    """A file of two presets, one of them with markup in its name, for the tiny model and its codebooks."""
    made_with = identity(model, Codebooks.from_pretrained(runs_with_books / "books", model))
    form = {"prompt": "Mary had", "codes": "a1.h2=5*0.25,m0=2", "how": "added", "scale": 2.5}
    measured = {"n": 20, "words": ["b"], "hits": [1, 15, 2], "perplexities": [9.0, 14.2, 12.0]}
    preset = {"name": "to the store", "temperature": 0.7, "n_tokens": 8, "found": "Found from 6 sentences."}
    preset |= form | {"measured": measured}
    file = tmp_path / "presets.json"
    both = [preset, preset | {"name": "<b>*", "codes": "m1=1"}]
    file.write_text(json.dumps({"format": 1, "made_with": made_with, "presets": both}), encoding="utf-8")
    monkeypatch.setattr("interp.steering.topics.FILE", file)
    return file


@pytest.mark.usefixtures("presets")
def test_a_preset_fills_the_form_and_says_how_often_it_worked_as_it_was_measured(page):
    app = page(source="of a topic", fraction="0.5", temperature="2", random_baseline="true")
    assert [button.label for button in app.button] == ["to the store", r"\<b\>\*", "Steer"]
    app.button[0].click().run()
    assert not app.exception
    assert app.radio(key="source").value == "by name" and app.radio(key="how").value == "added"
    assert app.text_area(key="codes").value == "a1.h2=5*0.25,m0=2"
    assert app.text_area(key="prompt").value == "Mary had"
    numbers = {key: app.number_input(key=key).value for key in ("scale", "fraction", "temperature", "tokens")}
    assert numbers == {"scale": 2.5, "fraction": 1.0, "temperature": 0.7, "tokens": 8}
    for words in ("these codes 15 of 20", "without 1 of 20", "heads 2 of 20", "perplexities 14, 9 and 12"):
        assert words in _measured(app)
    _press(app)
    assert not app.error and "how='added'" in app.code[0].value


def test_codes_are_found_from_texts_and_listed_and_kept(page, runs_with_books):
    app = page()
    assert app.radio(key="how").value == "set"
    app.radio(key="source").set_value("of texts").run()
    assert app.radio(key="how").value == "added" and app.number_input(key="scale").value == SCALE
    app.text_area(key="positive").set_value("\n".join(f"Z {word} the store" for word in WORDS))
    app.text_area(key="negative").set_value("\n".join(f"{word} the store" for word in WORDS))
    app.number_input(key="top_k").set_value(2)
    _press(app)
    assert not app.error
    table = app.dataframe[1].value
    assert list(table.columns) == ["site", "code", "weight", "effect", "precision", "recall", "q", "page"]
    assert len(table) == 2 and table["page"][0] == f"/codes?code={table['site'][0]}={table['code'][0]}"
    codes = ",".join(f"{row.site}={row.code}*{row.weight}" for row in table.itertuples())
    assert f"parse_codes('{codes}')" in app.code[0].value
    [kept] = (runs_with_books / ".found").glob("*.json")
    assert f'"code": {table["code"][0]}' in kept.read_text(encoding="utf-8")
    before = files_of(runs_with_books)
    app.number_input(key="seed").set_value(3)  # of the texts: the codes stay those that were found
    _press(app)
    assert files_of(runs_with_books) == before and len(app.dataframe[1].value) == 2
    assert f"parse_codes('{codes}')" in app.code[0].value and "seed=3" in app.code[0].value
    kept.write_text("{", encoding="utf-8")
    _press(app)
    assert not app.error and files_of(runs_with_books)[str(kept)] != before[str(kept)]
    app.radio(key="source").set_value("by name").run()
    assert app.radio(key="how").value == "set"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"prompt": " "}, "no prompt"),
        ({"prompt": "a b " * 100}, "8 new ones"),
        ({"chat": "true"}, "no chat template"),
        ({"codes": "![x](https://example.org/x.png)=1"}, "![x]("),
        *(
            ({"codes": codes}, "")
            for codes in ("a7.h1=1", "a0.h1=99", "a0.h1", "", "a0.h1=1 a0.h1=2 a0.h1=3")
        ),
    ],
)
def test_what_cannot_be_steered_is_one_clear_line(page, address, message):
    app = page(**{"codes": CODES} | address)
    if "prompt" in address:
        with engine.turn():  # while another tab has the model
            _press(app)
    else:
        _press(app)
    assert message in error_of(app) and not app.metric


def test_an_address_out_of_range_leaves_what_is_usual(page):
    for scale in ("nan", "1e99"):
        app = page(how="added", scale=scale, fraction="-1", begin="0")
        numbers = {key: app.number_input(key=key).value for key in ("scale", "fraction", "begin")}
        assert numbers == {"scale": 1.0, "fraction": 1.0, "begin": 1}
    assert page(how="x").radio(key="how").value == "set"


def test_markup_in_a_prompt_is_shown_as_text(page):
    app = page()
    app.text_area(key="prompt").set_value("<script>alert(1)</script> <b>")
    app.text_area(key="codes").set_value(CODES)
    _press(app)
    for strip in html_of(app):
        assert "&lt;" in strip and not re.search(r"<(?!/?(?:div|span|bdi)\b)", strip)
