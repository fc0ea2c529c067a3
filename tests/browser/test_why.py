"""The first page, as a newcomer meets it: a pair is explained by itself, and a node is clicked and patched."""

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_a_pair_is_explained_and_a_node_that_is_clicked_and_patched_moves_the_answers(tab):
    opened = tab("/")
    page = opened.page
    nodes = page.locator("[data-node]")
    expect(nodes.first).to_be_visible(timeout=180_000)
    opened.settle()
    edited = page.locator("[data-p='answer A, edited']")
    expect(edited).to_have_count(0)
    page.get_by_role("slider", name="Nodes in the picture").press("ArrowRight")
    opened.settle()
    nodes.last.click()
    expect(nodes.last).to_have_attribute("aria-pressed", "true")
    site = nodes.last.locator("text").first.text_content().split()[0]
    expect(page.get_by_role("combobox", name="Node")).to_have_value(re.compile(f"^{site} at"))
    for label, edit in (("Patch B's value", f"{site}@"), ("Remove", "=0")):
        page.get_by_role("button", name=label).click()
        expect(page.locator("code").filter(has_text=edit).last).to_be_visible()
        opened.settle()
    assert re.search(r"edits=a\d\.h\d%40\d+%3Db%2Ca\d\.h\d%40\d+%3D0", page.url)
    page.get_by_role("button", name="Step back").click()
    expect(page.locator("[data-testid=stMarkdown] li > code")).to_have_count(1)
    opened.settle()
    shares = [page.locator(f"[data-p='{name} A, edited']").inner_text() for name in ("answer", "instead")]
    again = tab(page.url.removeprefix(opened.address)).page
    expect(again.locator("li > code")).to_have_text(page.locator("li > code").inner_text())
    for name, share in zip(("answer", "instead"), shares, strict=True):
        expect(again.locator(f"[data-p='{name} A, edited']")).to_have_text(share)
    # by the keyboard alone
    again.locator("[data-node][tabindex='0']").focus()
    again.keyboard.press("ArrowLeft")
    again.keyboard.press("Enter")
    expect(again.locator("[data-node]").nth(-2)).to_have_attribute("aria-pressed", "true")
