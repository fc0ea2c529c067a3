"""The report as a reader meets it: offline, on a phone and a desk, in light and dark."""

import pytest

from interp.report.page import render_report
from tests.report.synthetic import make_run, published

pytestmark = pytest.mark.browser

RUNS = {
    "30 layers of 9": {"members": 12, "n_tokens": 45},
    "references": {"n_layers": 12, "n_heads": 12, "model": "gpt2", "mlp_members": 2, "references": published()},
    "markup": {"n_layers": 4, "n_heads": 8, "members": 5, "evil": True, "n_tokens": 45, "mlps": False},
}
_EVERYTHING_OPEN = "document.querySelectorAll('details').forEach(e => { e.open = true })"
_WIDTH = "document.documentElement.scrollWidth"


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens HTML or a run's report; yields the page and what it asked for or complained about."""
    contexts = []

    def open_(page: dict | str, width: int = 1280, scheme: str = "light", fragment: str = ""):
        path = tmp_path / "report.html"
        text = page if isinstance(page, str) else render_report(make_run(**page))
        path.write_text(text, encoding="utf-8")
        size = {"width": width, "height": 800}
        context = chromium.new_context(viewport=size, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        trouble: list[str] = []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.on("request", lambda r: trouble.append(r.url) if r.url.split("#")[0] != path.as_uri() else None)
        page.goto(path.as_uri() + fragment)
        return page, trouble

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_opens_offline_without_complaint_and_fits_phone_and_desk(opened, options):
    text = render_report(make_run(**options))
    for width, scheme in ((390, "light"), (1280, "dark")):
        page, trouble = opened(text, width, scheme)
        page.evaluate(_EVERYTHING_OPEN)
        page.wait_for_selector(".main-svg")
        assert page.evaluate(_WIDTH) <= width and trouble == []


def test_injected_markup_is_inert_and_read_as_text(opened):
    page, trouble = opened(RUNS["markup"])
    page.evaluate(_EVERYTHING_OPEN)
    page.wait_for_selector(".pattern .main-svg")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, svg script, svg a[href^=javascript]").count() == 0
    assert page.locator("script").count() == 3 + page.locator(".plot").count()  # plotly twice, packed and not
    assert page.get_by_text("window.hacked=1").count() > 0
    assert page.locator(".pattern .main-svg").first.get_by_text("<script>").count() > 0  # in a figure, too
    assert trouble == []


def test_a_script_that_got_into_a_page_does_not_run(opened):
    text = render_report(make_run(n_layers=3, n_heads=2, members=1))
    page, _ = opened(text.replace("<main", "<script>window.hacked=1</script><main", 1))
    page.wait_for_selector(".main-svg")
    assert page.evaluate("window.hacked") is None


def test_a_member_is_opened_by_its_link_and_by_a_click_in_the_grid(opened):
    shape = {"n_layers": 6, "n_heads": 4, "members": 8}
    run = make_run(**shape)
    last = run.members[-1].site
    page, _ = opened(shape, fragment=f"#{last}")
    page.locator(f"[id='{last}'] .pattern .main-svg").first.wait_for()
    page, trouble = opened(shape)
    page.wait_for_selector(".plot .scatterlayer path.point", state="attached")
    assert not page.locator(f"[id='{last}']").is_visible()
    place = [head.site for head in run.heads].index(last)
    box = page.locator(".plot").first.locator(".scatterlayer path.point").nth(place).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator(f"[id='{last}']").wait_for()
    assert trouble == []
