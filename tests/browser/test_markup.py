"""Nothing that a corpus, a prompt, a note, a run or a file name holds is ever run."""

from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import MARKUP, NAME
from tests.report.synthetic import EVIL

pytestmark = pytest.mark.browser

PLACES = {
    "a bench": ("/evaluation", {"bench": f"bench {NAME}"}),
    "a run": ("/circuit", {"run": NAME}),
    "a corpus": ("/codes", {"q": "script"}),
    "a pattern": ("/codes", {"q": MARKUP}),
    "a code's name": ("/codes", {"code": MARKUP}),
    "a live text": ("/live", {"text": MARKUP}),
    "a site": ("/live", {"site": MARKUP, "text": "a"}),
    "codes to steer by": ("/steering", {"codes": f"a0.h1={MARKUP}"}),
}


def _inert(page) -> bool:
    return page.evaluate("window.hacked === undefined && !document.querySelector('img[src=x]')")


@pytest.mark.parametrize("place", PLACES)
def test_markup_in(tab, place):
    path, address = PLACES[place]
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in address.items())
    page = tab(f"{path}?{query}").page
    page.wait_for_timeout(300)
    assert _inert(page)


def test_text_that_looks_like_an_address_is_no_link(tab):
    text = "https://evil.example/x:www.evil.example:me@evil.example->now"
    page = tab(f"/codes?code={quote(text, safe='')}").page
    expect(page.get_by_text("evil.example").first).to_be_visible()
    # the page's own links have the text in their address
    found = page.evaluate(
        "[...document.links].filter(link => link.host !== location.host).map(link => link.href)"
    )
    assert found == []
    assert "→" not in page.get_by_text("evil.example").first.inner_text()


def test_links_within_a_report_lead_to_its_parts(tab):
    page = tab(f"/circuit?run={quote(NAME, safe='')}&tab=Report").page
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="References", exact=True).click()
    expect(frame.locator("#recovery")).to_be_in_viewport(timeout=10_000)
    expect(frame.get_by_text("circuit report")).to_have_count(1)


def test_markup_in_what_is_steered(tab):
    page = tab(f"/steering?prompt={quote(EVIL)}&codes=a0.h1=3&tokens=8").page
    page.get_by_role("button", name="Steer", exact=True).click()
    expect(page.get_by_text("Perplexity", exact=True)).to_have_count(2, timeout=30_000)
    expect(page.get_by_text("window.hacked=1").first).to_be_visible()
    assert _inert(page)


def test_markup_in_a_note_is_kept_and_shown_as_text(tab):
    page = tab("/codes?code=a0.h0=1").page
    page.get_by_text("Note", exact=True).first.click()  # the other is the label of the text inside
    page.locator("textarea").first.fill(MARKUP)
    page.keyboard.press("Control+Enter")  # not the button: it moves while the fold above it opens
    expect(page.get_by_text("Note: <script>window.hacked=1</script>")).to_be_visible()
    assert _inert(page)
    page.get_by_role("button").filter(has_text="Search").click()
    expect(page.get_by_role("heading", name="Starred and noted")).to_be_visible()
    assert _inert(page)
