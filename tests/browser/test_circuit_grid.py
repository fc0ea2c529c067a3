"""The grid of heads: a click opens a head, also one that was opened before, and the ring is where the page is."""

from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from interp.runs.run import Run
from tests.browser.conftest import NAME

pytestmark = pytest.mark.browser


def _click(page: Page, run: Run, site: str) -> None:
    place = [head.site for head in run.heads].index(site)
    box = page.locator(".js-plotly-plot .scatterlayer path.point").nth(place).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def _opened(page: Page, run: Run, site: str) -> None:
    expect(page.locator("strong", has_text=site)).to_be_visible()
    place = [head.site for head in run.heads].index(site)
    points = page.locator(".js-plotly-plot .scatterlayer path.point")
    expect(points.nth(place)).to_have_css("opacity", "1")
    # the browser takes the ring away at a second click, until the page answers
    page.wait_for_function(
        """() => [...document.querySelectorAll('.js-plotly-plot .scatterlayer path.point')]
        .filter(e => getComputedStyle(e).opacity === '1').length === 1"""
    )


def test_heads_are_opened_by_a_click_and_by_the_box(tab, runs):
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
    page.get_by_role("tab", name="Edges").click()
    opened.settle()
    page.get_by_role("tab", name="Heads").click()
    opened.settle()
    _opened(page, run, second)
