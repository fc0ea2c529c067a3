"""The page *Live text*: codes as the codebooks choose them, at every token and site."""

import re

import numpy as np
import pytest
import torch

from interp.bottlenecks.attach import attach
from interp.bottlenecks.book_folder import load_codebooks
from interp.models import load_model
from tests.app.conftest import files_of, html_of

TEXT = "Mary had a store"


@pytest.fixture
def page(open_page, runs_with_books):
    return lambda **address: open_page("live", runs_with_books, **address)


@pytest.fixture(scope="module")
def expected(tiny_model_folder, runs_with_books) -> dict[str, np.ndarray]:
    """Codes of the text without BOS, read by other means."""
    model = load_model(str(tiny_model_folder("llama")))
    books = load_codebooks(runs_with_books / "books", model)
    ids = [model.tokenizer.bos_token_id, *model.tokenizer(TEXT, add_special_tokens=False).input_ids]
    with torch.no_grad(), attach(model, books, error_term=True) as attached:
        model(torch.tensor([ids]))
    return {site: found[0, 1:].numpy() for site, found in attached.ids.items()}


def _numbers(strip: str) -> list[int]:
    return [int(number) for number in re.findall(r"<sub[^>]*>(\d+)</sub>", strip)]


def test_tokens_are_coloured_by_their_codes_and_one_is_listed_at_all_sites(page, runs_with_books, expected):
    before = files_of(runs_with_books)
    app = page(text=TEXT, site="a1.h2")
    assert app.text_area(key="text").value == TEXT and app.selectbox(key="site").value == "a1.h2"
    [strip] = html_of(app)
    assert _numbers(strip) == expected["a1"][:, 2, 0].tolist()
    hues = re.findall(r"hsla\((\d+)", strip)
    assert len(set(zip(hues, _numbers(strip), strict=True))) == len(set(_numbers(strip))) == len(set(hues))

    app.get("button_group")[0].set_value(2).run()
    assert not app.exception and app.query_params["token"] in ("2", ["2"])
    table = app.dataframe[0].value
    # two layers of four heads and an MLP, two slots each
    assert len(table) == 2 * 5 * 2
    for row in table.itertuples():
        layer, _, head = row.site.partition(".h")
        codes = expected[layer][2] if not head else expected[layer][2, int(head)]
        assert row.code == codes[row.slot - 1]
        assert -1 <= row.similarity <= 1 and row.margin <= 2
    assert files_of(runs_with_books) == before


def test_all_heads_of_a_layer_are_shown_at_once(page, expected):
    app = page(text=TEXT)
    app.selectbox(key="site").set_value("a0").run()
    strips = html_of(app)
    assert [_numbers(strip) for strip in strips] == expected["a0"][:, :, 0].T.tolist()


def test_markup_in_a_text_is_shown_as_text(page):
    app = page(text="<script>alert(1)</script> *a* ![x](https://example.org)")
    for strip in html_of(app):
        assert "&lt;" in strip and not re.search(r"<(?!/?(?:div|span|sub|b)\b)", strip)
    labels = app.get("button_group")[0].options
    assert any(r"\<" in label for label in labels)
    assert not any(re.search(r"(?<!\\)[<*\[!]", label) for label in labels)


@pytest.mark.parametrize(
    ("text", "message"), [("", "no text"), ("a b " * 100, "this page shows at most 128")]
)
def test_a_text_that_cannot_be_read_is_one_clear_line(page, text, message):
    app = page()
    app.text_area(key="text").set_value(text).run()
    [error] = app.error
    assert message in error.value and not app.dataframe
