"""Every page fits its window, in both themes, and its controls are reached by the keyboard."""

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

PAGES = {
    "/": "Read and steer",
    "/live?text=Mary+had+a+store": "Live text",
    "/codes?q=Mary": "Codes",
    "/circuit": "Circuit",
    "/steering": "Steering",
    "/evaluation": "Evaluation",
    "/evaluation?show=Codebooks": "Evaluation",
}


@pytest.mark.parametrize(("width", "scheme"), [(800, "light"), (1280, "dark")])
@pytest.mark.parametrize("path", PAGES)
def test_no_page_is_wider_than_its_window(tab, path, width, scheme):
    opened = tab(path, width=width, scheme=scheme)
    expect(opened.page.get_by_role("heading", level=1)).to_contain_text(PAGES[path])
    opened.page.wait_for_timeout(300)  # figures are drawn after the script
    assert opened.overflow() <= 0
    colour = opened.page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    red = int(colour.split("(")[1].split(",")[0])
    assert red < 60 if scheme == "dark" else red > 240


CONTROLS = {
    "/": ["Steering", "Begin here: a story with fire in it", "Live text", "Codes", "Circuit", "Evaluation"],
    "/steering": ["Prompt", "Codes", "New tokens", "Steer"],
    "/live?text=Mary+had": ["Text", "Coloured by", "Token"],
    "/codes?q=Mary": ["Index", "Regular expression", "Sorted by"],
    "/evaluation": ["Bench", "Measured on", "Metric"],
}
_FOCUSED = """() => {
  let e = document.activeElement;
  while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
  return e ? (e.getAttribute('aria-label') || e.innerText || '').trim() : '';
}"""


@pytest.mark.parametrize("path", CONTROLS)
def test_tab_reaches_the_main_controls(tab, path):
    page = tab(path).page
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_FOCUSED))
    for wanted in CONTROLS[path]:
        assert any(wanted in label for label in reached), (wanted, reached)
