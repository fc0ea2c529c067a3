"""Every page fits its window, in both themes, and its controls are reached by the keyboard."""

import pytest
from playwright.sync_api import expect

from tests.browser.workbench import HEIGHT

pytestmark = pytest.mark.browser

BEGIN = "Begin here: a story with fire in it"
PAGES = {
    "/": ("Why", ["Prompt A", "Prompt B", "Explain", "Propose another prompt", "kept", "Patch B's value"]),
    "/start": ("Read and steer", ["Steering", BEGIN, "Live text", "Codes", "Circuit", "Evaluation"]),
    "/live?text=Mary+had+a+store": ("Live text", ["Text", "Coloured by", "Token"]),
    "/codes?q=Mary": ("Codes", ["Index", "Regular expression", "Sorted by"]),
    "/circuit": ("Circuit", []),
    "/steering": ("Steering", ["fire", "Prompt", "Beside base and codes", "More", "Steer"]),
    "/evaluation": ("Evaluation", ["Bench", "Measured on", "Metric"]),
    "/evaluation?show=Codebooks": ("Evaluation", []),
}
_FOCUSED = """() => {
  let e = document.activeElement;
  while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
  return e ? (e.getAttribute('aria-label') || e.innerText || '').trim() : '';
}"""


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_its_window_and_tab_reaches_its_controls(tab, path):
    heading, controls = PAGES[path]
    opened = tab(path, width=800)
    page = opened.page
    for width, scheme in ((800, "light"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.emulate_media(color_scheme=scheme)
        expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
        page.wait_for_timeout(300)  # figures are drawn after the script
        assert opened.overflow() <= 0
        colour = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
        red = int(colour.split("(")[1].split(",")[0])
        assert red < 60 if scheme == "dark" else red > 240
    opened.settle()
    reached: list[str] = []
    # on a busy machine the page may still be drawn, which begins the round again
    for _ in range(150 if controls else 0):
        if all(any(wanted in label for label in reached) for wanted in controls):
            break
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_FOCUSED))
    for wanted in controls:
        assert any(wanted in label for label in reached), (wanted, reached)
