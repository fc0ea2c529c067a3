"""What a user does in the workbench, in Chromium against the real server."""

import contextlib
import itertools
import json
import re
from string import ascii_letters
from urllib.parse import quote, urlencode

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from interp.codesearch import CodeIndex, search_regex
from interp.models import load_model
from interp.runs.run import Run
from tests.browser.conftest import CITY, MARKUP, NAME
from tests.browser.workbench import is_inert

pytestmark = pytest.mark.browser
PERPLEXITY = re.compile("^perplexity [0-9]")


@pytest.fixture(scope="module")
def pairs(tiny_model_folder) -> bytes:
    """A file of prompts at which the tiny model does a task: its answer is what it says after the clean prompt."""
    model = load_model(str(tiny_model_folder("llama")))

    def encoded(text: str) -> list[int]:
        return model.tokenizer(text, add_special_tokens=False).input_ids

    letters = {letter: encoded(letter)[0] for letter in ascii_letters}
    prompts, n_tokens = [], None
    for a, b in itertools.product("BCDFGHKLMN", "PQRSTVWXYZ"):
        texts = [f"When {x} and {y} met, {x} gave to" for x, y in ((a, b), (b, a))]
        ids = [[model.tokenizer.bos_token_id, *encoded(text)] for text in texts]
        n_tokens = n_tokens or len(ids[0])
        logits = [model(torch.tensor([i]))[0, -1, list(letters.values())] for i in ids]
        answer, wrong = (list(letters)[int(row.argmax())] for row in logits)
        if answer != wrong and {len(i) for i in ids} == {n_tokens}:
            answers = {"answers": [answer], "wrong_answers": [wrong]}
            prompts.append({"clean": texts[0], "corrupt": texts[1]} | answers)
    return json.dumps({"prompts": prompts[:12]}).encode()


def open_first_row(page: Page, name: str | re.Pattern) -> None:
    """Click it until the page of that name opens: a table that is still being drawn takes no click."""
    heading = page.get_by_role("heading", level=1, name=name)
    for _ in range(12):
        page.locator("[data-testid=stDataFrame] .dvn-scroller").first.click(position={"x": 50, "y": 52})
        with contextlib.suppress(AssertionError):
            return expect(heading).to_be_visible(timeout=2_500)
    raise AssertionError(name)


def test_search_a_pattern_and_open_a_code(tab, runs):
    opened = tab(f"/codes?q={CITY.replace(' ', '+')}")
    page = opened.page
    [folder] = [path for path in runs.iterdir() if (path / "ids.npy").is_file()]
    index = CodeIndex.open(folder)
    scores = search_regex(index, CITY)
    best = scores.best(1)[0]
    expect(page.get_by_text(f"{scores.matches.n} matches")).to_be_visible()
    open_first_row(page, f"{best.book}={best.code}")
    assert re.search(rf"code={best.book}(=|%3D){best.code}", page.url)
    opened.settle()
    expect(page.get_by_test_id("stMetricValue").first).to_have_text(f"{index.count(best.book, best.code):,}")
    page.get_by_role("button", name="Star", exact=True).click()
    expect(page.get_by_role("button", name="Starred")).to_be_visible()
    page.get_by_role("button").filter(has_text="Search").click()
    expect(page.get_by_role("heading", name="Starred and noted (1)")).to_be_visible()


def test_a_token_that_is_clicked_shows_its_codes(tab):
    page = tab("/live?text=Mary+had+a+store").page
    page.locator(".token").first.click()
    expect(page).to_have_url(re.compile("token=0"))
    expect(page.get_by_role("heading", name=re.compile("^Codes of M"))).to_be_visible()
    expect(page.locator(".token[aria-selected=true]").first).to_have_attribute("data-token", "0")


def test_find_a_circuit_and_set_a_code(tab, runs, pairs):
    before = {path.name for path in runs.iterdir()}
    opened = tab(f"/circuit?run={quote(NAME)}")
    page = opened.page
    page.get_by_text("Find a circuit").click()
    page.get_by_text("a file of prompts").first.click()
    upload = {"name": "mine.json", "mimeType": "application/json", "buffer": pairs}
    page.locator("input[type=file]").set_input_files(upload)
    page.get_by_label("Pairs, at most", exact=True).fill("10")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.get_by_text("Finding the circuit of")).to_be_visible()
    expect(page.get_by_text("Finding the circuit of")).to_be_hidden(timeout=60_000)
    opened.settle()
    assert page.get_by_test_id("stAlert").all_inner_texts() == []
    [new] = {path.name for path in runs.iterdir()} - before
    assert f"run={new}" in page.url and "head=" in page.url
    page.get_by_text("Read its codes in the codebooks").click()
    page.get_by_role("button", name="Set it").click()
    expect(page.get_by_text("changes by")).to_be_visible()
    expect(page.get_by_text("with a random code by")).to_be_visible()


def test_a_discovery_that_is_left_ends_and_leaves_nothing(tab, runs):
    before = {path.name for path in runs.iterdir()}
    opened = tab(f"/circuit?run={quote(NAME)}")
    page = opened.page
    page.get_by_text("Find a circuit").click()
    opened.choose(re.compile("Task"), "planted-gates")
    page.get_by_label("Pairs", exact=True).fill("300")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.get_by_text(re.compile("scores: [1-9]"))).to_be_visible()
    page.get_by_role("navigation").get_by_role("link", name="Steering", exact=True).click()
    expect(page.get_by_role("heading", name="Steering")).to_be_visible()
    opened.settle()
    # its turn at the model is free again
    page.get_by_text("by name", exact=True).click()
    page.get_by_label("Codes", exact=True).fill("a0.h1=3")
    page.get_by_role("button", name="Steer", exact=True).click()
    expect(page.get_by_text(PERPLEXITY)).to_have_count(2)
    assert {path.name for path in runs.iterdir()} == before


@pytest.fixture
def steered(tab):
    """Base, codes and a text with something said in its prompt."""
    asked = {"source": "by name", "codes": "a0.h1=3, a1.h2=5", "prompt": MARKUP, "tokens": "12"}
    opened = tab(f"/steering?{urlencode(asked | {'beside': 'Said in the prompt', 'said': '<b>Hi</b>'})}")
    opened.page.get_by_role("button", name="Steer", exact=True).click()
    expect(opened.page.get_by_text(PERPLEXITY)).to_have_count(3, timeout=120_000)
    return opened


def test_steer_compare_and_open_a_token(steered):
    page = steered.page
    expect(page.locator("[title='codes edited here']").first).to_be_visible()
    row = page.get_by_role("listbox", name="Tokens of Codes")
    row.locator(".token").nth(4).click()
    expect(page.get_by_text("with the edits of this text at the token before")).to_be_visible()
    expect(row.locator(".token[aria-selected=true]")).to_have_count(1)
    # the likeliest tokens and the codes there
    expect(page.locator("[data-testid=stDataFrame]").nth(1)).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("combobox", name="New token")).to_have_value(re.compile("^6 "))
    assert is_inert(page)


def _point(page: Page, run: Run, site: str) -> Locator:
    place = [head.site for head in run.heads].index(site)
    return page.locator(".js-plotly-plot .scatterlayer path.point").nth(place)


def _click(page: Page, run: Run, site: str) -> None:
    box = _point(page, run, site).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def _opened(page: Page, run: Run, site: str) -> None:
    expect(page.locator("strong", has_text=site)).to_be_visible()
    expect(_point(page, run, site)).to_have_css("opacity", "1")
    # the browser takes the ring away at a second click, until the page answers
    page.wait_for_function(
        """() => [...document.querySelectorAll('.js-plotly-plot .scatterlayer path.point')]
        .filter(e => getComputedStyle(e).opacity === '1').length === 1"""
    )


def test_heads_of_the_grid_are_opened_by_a_click_and_by_the_box(tab, runs):
    run = Run.load(runs / NAME)
    opened = tab(f"/circuit?run={quote(NAME)}")
    page = opened.page
    opened.settle()
    first, second, third = (part.site for part in run.members)
    _opened(page, run, first)
    _click(page, run, second)
    _opened(page, run, second)
    opened.choose("Head", third)
    _opened(page, run, third)
    _click(page, run, second)  # the head that was clicked last
    _opened(page, run, second)
    _click(page, run, second)  # takes the ring away, were it not drawn again
    opened.settle()
    _opened(page, run, second)
    for name in ("Edges", "Heads"):
        page.get_by_role("tab", name=name).click()
        opened.settle()
    _opened(page, run, second)
