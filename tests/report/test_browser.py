"""The report as a reader meets it: offline, on a phone and a desk, in light and dark."""

import pytest

from interp.report import render_report
from tests.report.synthetic import make_run, published

pytestmark = pytest.mark.browser

RUNS = {
    "30 layers of 9": {"members": 30, "n_tokens": 45},
    "references": {
        "n_layers": 12,
        "n_heads": 12,
        "model": "gpt2",
        "mlp_members": 2,
        "references": published(),
    },
    "no members": {"members": 0},
    "markup": {"n_layers": 4, "n_heads": 8, "members": 5, "evil": True, "n_tokens": 45, "mlps": False},
}
_EVERYTHING_OPEN = "document.querySelectorAll('details').forEach(e => { e.open = true })"


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens a run's report; yields the page and what it asked for or complained about."""
    contexts = []

    def open_(options: dict, width: int = 1280, scheme: str = "light", fragment: str = ""):
        path = tmp_path / "report.html"
        path.write_text(render_report(make_run(**options)), encoding="utf-8")
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_opens_offline_without_complaint_and_fits_the_page(opened, options, width, scheme):
    page, trouble = opened(options, width, scheme)
    page.evaluate(_EVERYTHING_OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert trouble == []


def test_injected_markup_is_inert_and_read_as_text(opened):
    page, trouble = opened(RUNS["markup"])
    page.evaluate(_EVERYTHING_OPEN)
    assert page.evaluate("window.hacked") is None
    assert page.locator("script, img").count() == 0
    assert page.get_by_text("window.hacked=1").count() > 0
    assert trouble == []


def test_dark_and_light_differ(opened):
    colours = [
        opened({}, scheme=scheme)[0].evaluate("getComputedStyle(document.documentElement).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_a_link_to_a_member_opens_its_card(opened):
    last = make_run().members[-1].site
    page, _ = opened({}, fragment=f"#{last}")
    card = page.locator(f"[id='{last}']")
    assert card.is_visible() and card.locator("figure.pattern svg").is_visible()


def test_the_grid_switches_by_keyboard(opened):
    page, _ = opened({})
    assert page.locator(".grid-score").is_visible() and not page.locator(".grid-effect").is_visible()
    page.locator("#show-score").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".grid-effect").is_visible() and not page.locator(".grid-score").is_visible()


def test_wide_parts_scroll_in_their_own_box_and_can_be_focused(opened):
    page, _ = opened({}, 390)
    box = page.get_by_role("region", name="Graph of the strongest edges")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")
    box.focus()
    assert box.evaluate("e => document.activeElement === e")


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_on_paper_everything_is_there(opened, options):
    page, _ = opened(options, 718)  # A4 less its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(cut) == 0
    closed = (
        "[...document.querySelectorAll('details > *:last-child')].filter(e => !e.checkVisibility()).length"
    )
    assert page.evaluate(closed) == 0
    assert page.locator(".grid-score").is_visible() and page.locator(".grid-effect").is_visible()
