"""The page *Live text*: codes as the codebooks choose them, at every token and site."""

import re

import numpy as np
import pytest
import torch

from interp.app import engine
from interp.bottlenecks.attach import attach
from interp.bottlenecks.store import Codebooks
from tests.app.conftest import array_of, asked, error_of, files_of, html_of, plot_of, strips_of, text_of

TEXT = "Mary had a store"


@pytest.fixture
def page(open_page, runs_with_books):
    return lambda **address: open_page("live", runs_with_books, **address)


@pytest.fixture(scope="module")
def expected(model, runs_with_books) -> dict[str, np.ndarray]:
    """Codes of the text without BOS, read by other means."""
    books = Codebooks.from_pretrained(runs_with_books / "books", model)
    ids = [model.tokenizer.bos_token_id, *model.tokenizer(TEXT, add_special_tokens=False).input_ids]
    with torch.no_grad(), attach(model, books, error_term=True) as attached:
        model(torch.tensor([ids]))
    return {site: site_ids[0, 1:].numpy() for site, site_ids in attached.ids.items()}


def test_tokens_are_coloured_by_their_codes_and_one_is_listed_at_all_sites(page, runs_with_books, expected):
    before = files_of(runs_with_books)
    app = page(text=TEXT, site="a1.h2")
    assert app.text_area(key="text").value == TEXT and app.selectbox(key="site").value == "a1.h2"
    strip = strips_of(app)[0]
    [row] = strip["rows"]
    assert "".join(strip["pieces"]) == TEXT and strip["chosen"] == len(strip["pieces"]) - 1
    assert row["name"] == "a1.h2" and row["numbers"] == [str(code) for code in expected["a1"][:, 2, 0]]
    pairs = set(zip(row["styles"], row["numbers"], strict=True))
    assert len(pairs) == len(set(row["numbers"])) == len(set(row["styles"]))

    app.selectbox(key=f"token of {TEXT}").set_value(2).run()
    assert strips_of(app)[0]["chosen"] == 2
    assert not app.exception and asked(app, "token") == "2"
    table = app.dataframe[0].value
    # two layers of four heads and an MLP, two slots each
    assert len(table) == 2 * 5 * 2
    for row in table.itertuples():
        layer, _, head = row.site.partition(".h")
        codes = expected[layer][2] if not head else expected[layer][2, int(head)]
        assert row.code == codes[row.slot - 1]
        assert -1 <= row.similarity <= 1 and row.margin <= 2
        assert row.page == f"/codes?code={row.site}={row.code}"
        assert row.steer == f"/steering?books=books&source=by+name&codes={row.site}%3D{row.code}"
    assert files_of(runs_with_books) == before
    # all heads of a layer at once
    app.selectbox(key="site").set_value("a0").run()
    numbers = [[int(number) for number in row["numbers"]] for row in strips_of(app)[0]["rows"]]
    assert numbers == expected["a0"][:, :, 0].T.tolist()


def test_two_tokens_are_compared_site_by_site(page, expected):
    app = page(text=TEXT, token="1")
    app.selectbox(key=f"other of {TEXT}").set_value(3).run()
    assert not app.exception
    same = {}
    for site, codes in expected.items():
        heads = codes[:, None] if codes.ndim == 2 else codes
        for head in range(heads.shape[1]):
            codes_1, codes_3 = set(heads[1, head].tolist()), set(heads[3, head].tolist())
            same[site, head] = len(codes_1 & codes_3) / len(codes_1)
    assert f"**{sum(value > 0 for value in same.values())} of 10**" in text_of(app)
    [trace] = plot_of(app)["data"]
    assert trace["y"] == ["head 0", "head 1", "head 2", "head 3", "MLP"]
    grid = array_of(trace["z"])
    assert grid.shape == (5, 2)
    assert all(grid[head, layer] == same[f"a{layer}", head] for layer in (0, 1) for head in range(4))
    assert all(grid[4, layer] == same[f"m{layer}", 0] for layer in (0, 1))


def test_markup_in_a_text_is_shown_as_text(page):
    """The browser makes text of what the strip is given: ``tests/browser``."""
    app = page(text="<script>alert(1)</script> *a* ![x](https://example.org)")
    assert "".join(strips_of(app)[0]["pieces"]).startswith("<script>") and not html_of(app)
    for chosen in app.selectbox:
        if chosen.label in ("Token", "Compared with"):
            # plain text, which is no Markdown
            assert any("<" in label for label in chosen.options)
            assert not any("\\" in label for label in chosen.options)
    for element in (*app.subheader, *app.markdown, *app.caption):
        assert not re.search(r"(?<!\\)<", element.value)
    [strip] = strips_of(page(text="a\u202eb\x07 c\n"))
    assert "".join(strip["pieces"]) == "a\u202eb\x07 c\n"
    assert "".join(strip["shown"]) == r"a\u202eb\u0007 c↵"


@pytest.mark.parametrize("token", ["-1", "99", "x", "1e3", "²", "9" * 5000])
def test_an_address_that_names_no_token_begins_at_the_last(page, token):
    app = page(text=TEXT, token=token, site="a9.h9")
    assert strips_of(app)[0]["chosen"] == len(strips_of(app)[0]["pieces"]) - 1
    assert app.selectbox(key="site").value == "a0" and not app.error


@pytest.mark.parametrize(("text", "message"), [("", "no text"), ("a b " * 100, "this page shows at most 128")])
def test_a_text_that_cannot_be_read_is_told_while_another_tab_has_the_model(page, text, message):
    app = page()
    with engine.turn():
        app.text_area(key="text").set_value(text).run()
    assert message in error_of(app) and not app.dataframe
