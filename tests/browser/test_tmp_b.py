import pytest
pytestmark = pytest.mark.browser
def test_b(tab, context):
    context.set_default_navigation_timeout(120000)
    o = tab("/live?text=Mary+had+a+store&token=1"); page = o.page
    sel = lambda: page.locator(".token[aria-selected=true]").first.get_attribute("data-token")
    o.settle(); print("link", sel(), page.url)
    page.locator("textarea").first.fill("Mary had a store and John had one too")
    page.keyboard.press("Control+Enter"); page.wait_for_timeout(2500); o.settle()
    print("typed", sel(), page.locator(".token").count(), page.url)
    page.locator(".token").nth(2).click(); page.wait_for_timeout(1500); print("click", sel(), page.url)
    page.go_back(); page.wait_for_timeout(2000); o.settle(); print("back", sel(), page.url)
    page.reload(); page.wait_for_timeout(3000); o.settle(); print("reload", sel(), page.url)
    o = tab("/codes?search=prompt&near=Mary+gave+7+drinks&at=1"); page = o.page
    o.settle(); print("codes", page.url)
    page.get_by_role("textbox", name="Prompt").fill("John went to the store"); page.keyboard.press("Enter"); page.wait_for_timeout(2500); print("codes typed", page.url)
    print(page.locator("[data-testid=stButtonGroup] [aria-checked=true]").all_inner_texts())
    page.get_by_text("Build another index").click(); page.wait_for_timeout(1500)
    print(page.locator("[data-testid=stExpander]").last.inner_text()[:200])
