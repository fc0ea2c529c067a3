"""The page *Steering*: base and steered as the library makes them, and nothing it is given becomes markup."""

import re

import pytest

from interp.bottlenecks.book_folder import load_codebooks
from interp.models import load_model
from interp.steering import SetCode, steer
from interp.steering.continuations import continue_prompts
from tests.app.conftest import files_of, html_of

CODES = "a0.h1=3, a1.h2=5"
WORDS = ("to", "from", "in", "at", "by", "of")


@pytest.fixture
def page(open_page, runs_with_books):
    return lambda **address: open_page("steering", runs_with_books, **address)


def _press(app):
    """Steer, with few tokens."""
    app.number_input(key="tokens").set_value(8)
    next(button for button in app.button if button.label == "Steer").click()
    app.run()
    assert not app.exception
    return app


def test_base_and_steered_are_what_the_library_makes_of_them(
    page, runs_with_books, tiny_model_folder, capsys
):
    before = files_of(runs_with_books)
    app = page()
    assert "Nothing steered yet" in " ".join(caption.value for caption in app.caption)
    app.text_area(key="prompt").set_value("John went to")
    app.text_input(key="codes").set_value(CODES)
    app.number_input(key="seed").set_value(4)
    _press(app)
    assert not app.error
    model = load_model(str(tiny_model_folder("llama")))
    books = load_codebooks(runs_with_books / "books", model)
    edits = [SetCode("a0.h1", 3, rows=[1]), SetCode("a1.h2", 5, rows=[1])]
    within = steer(model, books, edits, seed=4)
    base, steered = continue_prompts(model, ["John went to"] * 2, 8, within=within, seed=4)
    assert base.tokens != steered.tokens
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown == {
        "Base: perplexity": f"{base.perplexity:.1f}",
        "Steered: perplexity": f"{steered.perplexity:.1f}",
    }
    left, right = html_of(app)
    assert "codes edited here" not in left
    # the last token of the prompt and all new ones but the last
    assert right.count("codes edited here") == 8 == len(steered.tokens)
    assert "the 8 tokens at which" in " ".join(caption.value for caption in app.caption)
    # the Python that the page gives makes the same
    exec(app.code[0].value, {})  # noqa: S102 - what the user is told to run
    assert f"{steered.perplexity}" in capsys.readouterr().out
    assert files_of(runs_with_books) == before


def test_what_the_address_says_is_steered(page):
    app = page(prompt="Mary had", codes="m0=2", how="added", scale="3", temperature="0", books="books")
    assert app.text_input(key="codes").value == "m0=2" and app.number_input(key="scale").value == 3
    _press(app)
    assert "AddCode(site, code, 3.0, rows=[1], from_mean=True)" in app.code[0].value
    assert "temperature=0.0" in app.code[0].value
    assert re.sub("<[^>]*>", "", html_of(app)[0]).startswith("Mary had")


def test_codes_are_found_from_texts_and_listed(page):
    app = page(source="of texts")
    app.text_area(key="like").set_value("\n".join(f"Z {word} the store" for word in WORDS))
    app.text_area(key="unlike").set_value("\n".join(f"{word} the store" for word in WORDS))
    app.number_input(key="dose").set_value(2)
    _press(app)
    assert not app.error
    table = app.dataframe[0].value
    assert list(table.columns) == ["site", "code", "precision", "recall", "effect", "q"] and len(table) == 2
    codes = ",".join(f"{row.site}={row.code}" for row in table.itertuples())
    assert f"parse_codes('{codes}')" in app.code[0].value


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ("a7.h1=1", "no site 'a7.h1'"),
        ("a0.h1=99", "code 99 at a0.h1: the codebook there has 0 to 11"),
        ("r0=1", "no codebook at r0"),
        ("a0.h1", "write SITE=ID"),
        ("", "no codes"),
    ],
)
def test_a_wrong_code_is_one_clear_line(page, codes, message):
    app = page()
    app.text_input(key="codes").set_value(codes)
    _press(app)
    [error] = app.error
    assert message in re.sub(r"\\(.)", r"\1", error.value) and "\n" not in error.value
    assert not app.metric


def test_markup_in_a_prompt_or_a_code_is_shown_as_text(page):
    app = page()
    app.text_area(key="prompt").set_value("<script>alert(1)</script> <b>")
    app.text_input(key="codes").set_value(CODES)
    _press(app)
    for strip in html_of(app):
        assert "&lt;" in strip and not re.search(r"<(?!/?(?:div|span)\b)", strip)
    app.text_input(key="codes").set_value("![x](https://example.org/x.png)=1")
    _press(app)
    assert r"\!\[x\]\(" in app.error[0].value


def test_without_codebooks_it_says_how_to_make_some(open_page, tmp_path):
    (tmp_path / "half").mkdir()
    app = open_page("steering", tmp_path)
    assert "No codebooks" in app.info[0].value
    assert app.code[0].value.startswith(
        "interp codebook fit --data self --tokens 11000 --codes 512 --k 1 --selection residual --out "
    )
    assert not app.selectbox and not app.metric


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "nothing"])
def test_an_address_cannot_name_codebooks_outside_the_runs_folder(page, name):
    app = page(books=name)
    assert app.selectbox(key="books").value == "books" and app.selectbox(key="books").options == ["books"]


def test_damaged_codebooks_are_an_error_card(open_page, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{", encoding="utf-8")
    app = open_page("steering", tmp_path)
    assert "cannot read" in app.error[0].value and "interp codebook fit" in app.code[0].value
