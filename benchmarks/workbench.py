"""How the workbench feels, in Chromium against the real server on the default model.

    python -m benchmarks.workbench RUNS [--rounds 5] [--threads 2]

RUNS is a folder with what the pages are to show (``python -m benchmarks.screenshots OUT`` makes one in ``OUT/runs``).
Times are from the mouse button's release to the first frame that shows the answer, taken in the page; a click needs no
forward pass unless it says so.
"""

import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Locator, Page

from benchmarks.common import arguments, print_table, workbench
from interp.models import parse_site
from interp.runs.run import Run
from tests.browser.workbench import Tab

GOAL = 200
"""Milliseconds of a click; of the first steered token there is none."""
PROMPT = "One day, Tim and his mom went to"
PAGES = {
    "Live text": "h3",
    "Codes": "[data-testid=stTextInput]",
    "Circuit": "[data-testid=stMetric]",
    "Steering": "[data-testid=stTextArea]",
    "Evaluation": ".js-plotly-plot",
    "Start": "[data-testid=stPageLink]",
}
_CELL = """([layer, head]) => {
  const plot = document.querySelector('.js-plotly-plot'), { xaxis, yaxis } = plot._fullLayout;
  const box = plot.getBoundingClientRect();
  return [box.left + xaxis._offset + xaxis.d2p(layer), box.top + yaxis._offset + yaxis.d2p(head)];
}"""
_IDLE = "document.querySelector('[data-test-script-state=notRunning]')"
_WATCH = f"""shown => {{
  window.answered = window.done = null;
  const holds = new Function(`return ${{shown}}`), idle = () => {_IDLE};
  addEventListener('pointerup', () => {{
    const released = performance.now();
    const look = () => {{
      if (!window.answered && holds()) window.answered = performance.now() - released;
      if (window.answered && idle()) window.done = true;
      else requestAnimationFrame(look);
    }};
    requestAnimationFrame(look);
  }}, {{ once: true, capture: true }});
}}"""


def until(page: Page, act: Callable[[], None], shown: str) -> float:
    """Milliseconds from the mouse button's release to the first frame in which ``shown``, an expression, holds."""
    page.evaluate(_WATCH, shown)
    act()
    page.wait_for_function("window.done", timeout=120_000)
    return page.evaluate("window.answered")


def press(page: Page, target: Locator, dx: float | None = None, dy: float | None = None) -> Callable[[], None]:
    """A click at a place that is known beforehand: looking for it is no part of the time."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    x = box["x"] + (box["width"] / 2 if dx is None else dx)
    y = box["y"] + (box["height"] / 2 if dy is None else dy)
    return lambda: page.mouse.click(x, y)


def switch_pages(page: Page, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for n in range(rounds + 1):
        for name, content in PAGES.items():
            link = page.get_by_role("navigation").get_by_role("link", name=name, exact=True)
            title = name if name != "Start" else "Read and steer"
            shown = (
                f"document.querySelector('h1')?.innerText.startsWith('{title}') && document.querySelector('{content}')"
            )
            took = until(page, press(page, link), shown)
            if n:  # the first visit reads what later ones have at hand
                times.setdefault(f"page: {name}", []).append(took)
    return times


def choose_tokens(tab: Tab, rounds: int) -> list[float]:
    page = tab.open("/live?site=a12")
    page.locator(".token").first.wait_for()
    times = []
    for n in range(rounds):
        shown = f"new URL(location).searchParams.get('token') === '{n}' && {_IDLE}"
        times.append(until(page, press(page, page.locator(".token").nth(n)), shown))
    return times


def choose_heads(tab: Tab, rounds: int, runs: Path) -> list[float]:
    """Members of a run, clicked in the grid: what the page shows of them is in the run."""
    folder = max(runs.glob("*/run.json"), key=lambda path: path.stat().st_mtime).parent
    sites = [head.site for head in Run.load(folder).circuit.heads]
    page = tab.open(f"/circuit?run={folder.name}")
    page.locator("[aria-label^='Attention pattern']").wait_for()
    times = []
    for n in range(1, rounds + 2):
        where = parse_site(sites[n % len(sites)])
        x, y = page.evaluate(_CELL, [where.layer, where.head])
        shown = f"document.querySelector('[aria-label^=\"Attention pattern of {where} \"]')"
        times.append(until(page, functools.partial(page.mouse.click, x, y), shown))
        page.wait_for_timeout(600)  # sooner, Plotly takes two clicks for a double one
    return times[1:]


def open_codes(tab: Tab, rounds: int) -> list[float]:
    times = []
    page = tab.open("/codes?q=%5Cbreturn%5Cw*")
    for n in range(rounds):
        table = page.locator("[data-testid=stDataFrame] .dvn-scroller").first
        table.wait_for()
        page.wait_for_timeout(300)
        act = press(page, table, 50, 52 + 35 * n)
        times.append(until(page, act, "document.querySelector('h1')?.innerText.includes(':')"))
        page.get_by_role("button").filter(has_text="Search").click()
        page.get_by_text("match").first.wait_for()
    return times


def next_codes(tab: Tab, rounds: int) -> list[float]:
    times = []
    page = tab.open("/codes?code=a11.h6=127")
    for _ in range(rounds + 1):
        name = page.locator("h1").inner_text()
        button = page.get_by_role("button", name="Next")
        shown = f"document.querySelector('h1')?.innerText !== '{name}'"
        times.append(until(page, press(page, button), shown))
        page.wait_for_timeout(300)
    return times[1:]


def first_tokens(tab: Tab, rounds: int) -> list[float]:
    """From the button to the first new token of both texts on the page; forwards included."""
    times = []
    address = f"/steering?source=by+name&codes=a12.h3=417,a20.h0=5&tokens=20&prompt={PROMPT.replace(' ', '+')}"
    page = tab.open(address)
    written = (
        "[...document.querySelectorAll('[data-testid=stHtml]')]"
        f".filter(e => e.innerText.includes('▌') && e.innerText.trim().length > {len(PROMPT) + 1}).length >= 2"
    )
    for _ in range(rounds + 1):
        button = page.get_by_role("button", name="Steer", exact=True)
        times.append(until(page, press(page, button), written))
        page.wait_for_function(f"!document.body.innerText.includes('▌') && {_IDLE}", timeout=120_000)
    return times[1:]


def main() -> None:
    given = arguments(__doc__, {"runs": Path}, rounds=5, threads=2)
    with (
        TemporaryDirectory() as log,
        workbench(given.runs.absolute(), Path(log) / "log", given.threads) as (address, context),
    ):
        tab = Tab(context, address)
        tab.page.goto(f"{address}/start")
        tab.page.get_by_text("is ready").wait_for(timeout=300_000)
        times = switch_pages(tab.page, given.rounds)
        times["choose a token"] = choose_tokens(tab, given.rounds)
        times["choose a head"] = choose_heads(tab, given.rounds, given.runs)
        times["open a code from a table"] = open_codes(tab, given.rounds)
        times["next code"] = next_codes(tab, given.rounds)
        times["first steered token (with forwards)"] = first_tokens(tab, given.rounds)
    rows = []
    for name, taken in times.items():
        goal = None if "steered" in name else GOAL
        rows.append((name, f"{statistics.median(taken):.0f}", f"{max(taken):.0f}", goal))
    print_table(("ms", "median", "largest", "goal"), rows)


if __name__ == "__main__":
    main()
