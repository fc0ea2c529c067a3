"""What a user does in the workbench, in Chromium against the real server."""

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

VIEWS = {"": "Read and steer", "live": "Live text", "circuit": "Circuit", "steering": "Steering"}


def test_the_first_page_tells_when_the_model_is_ready_and_leads_to_the_others(tab):
    page = tab().page
    expect(page.get_by_text("is ready: 2 layers of 4 heads")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Begin here: a story with fire in it").click()
    expect(page.get_by_role("heading", name="Steering")).to_be_visible()
    expect(page.get_by_label("Prompt")).to_have_value("One day, Tim and his mom went to")


@pytest.mark.parametrize("width", [800, 1280])
@pytest.mark.parametrize("view", VIEWS)
def test_no_page_is_wider_than_its_window(tab, view, width):
    opened = tab(f"/{view}", width=width)
    expect(opened.page.get_by_role("heading", level=1)).to_contain_text(VIEWS[view])
    assert opened.overflow() <= 0


def test_steer_and_compare(tab):
    page = tab("/steering").page
    page.get_by_label("Prompt").fill("John went to")
    page.get_by_label("Codes", exact=True).fill("a0.h1=3, a1.h2=5")
    page.get_by_role("button", name="Steer", exact=True).click()
    expect(page.get_by_text("Base: perplexity")).to_be_visible()
    expect(page.get_by_text("Steered: perplexity")).to_be_visible()
    expect(page.locator("[title='codes edited here']").first).to_be_visible()


def test_a_token_that_is_clicked_shows_its_codes(tab):
    page = tab("/live?text=Mary+had+a+store").page
    page.get_by_role("button", name="0 Mary").or_(page.get_by_text("0 M")).first.click()
    expect(page.get_by_role("heading", name="Codes of")).to_be_visible()
    assert "token=0" in page.url
