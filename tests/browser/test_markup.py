"""Nothing that a corpus, a prompt, a note, a run or a file name holds is ever run."""

from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import MARKUP, NAME
from tests.browser.workbench import is_inert

pytestmark = pytest.mark.browser

ADDRESS = "https://evil.example/x:www.evil.example:me@evil.example->now"
PLACES = {
    "two prompts and an edit": ("/", {"a": f"{MARKUP} a", "b": f"{MARKUP} b", "edits": MARKUP}),
    "a bench": ("/evaluation", {"bench": f"bench {NAME}"}),
    "a run": ("/circuit", {"run": NAME}),
    "a corpus": ("/codes", {"q": "script"}),
    "a pattern": ("/codes", {"q": MARKUP}),
    "a code's name": ("/codes", {"code": f"{ADDRESS}{MARKUP}"}),
    "a live text and a site": ("/live", {"site": MARKUP, "text": MARKUP}),
    "codes to steer by": ("/steering", {"source": "by name", "codes": f"a0.h1={MARKUP}"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_markup_in(tab, place):
    path, address = PLACES[place]
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in address.items())
    page = tab(f"{path}?{query}").page
    page.wait_for_timeout(300)
    assert is_inert(page)
    if ADDRESS in "".join(address.values()):  # text that looks like an address is no link
        shown = page.get_by_text("evil.example").first
        expect(shown).to_be_visible()
        # the page's own links have the text in their address
        links = "[...document.links].filter(link => link.host !== location.host).map(link => link.href)"
        assert page.evaluate(links) == [] and "→" not in shown.inner_text()


def test_links_within_a_report_lead_to_its_parts(tab):
    page = tab(f"/circuit?run={quote(NAME, safe='')}&tab=Report").page
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="References", exact=True).click()
    expect(frame.locator("#recovery")).to_be_in_viewport(timeout=10_000)
    expect(frame.get_by_text("circuit report")).to_have_count(1)
