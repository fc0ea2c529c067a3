"""How the workbench feels, in Chromium against the real server on the default model.

    python -m benchmarks.workbench RUNS [--rounds 5] [--threads 2]

RUNS is a folder with what the pages are to show (``python -m benchmarks.screenshots OUT`` makes one in ``OUT/runs``).
Times are from the mouse button's release to the first frame that shows the answer, taken in the page; a click needs no
forward pass unless it says so.
"""

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from playwright.sync_api import Locator, Page

from benchmarks.common import arguments, print_table, timed, workbench
from interp.models import load_model, parse_site
from interp.runs.run import Run
from tests.browser.workbench import Tab

GOAL, FIRST_GOAL = 200, 5
"""Milliseconds of a click, plain forwards until the first steered token."""
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
  window.times = null;
  const holds = new Function(`return ${{shown}}`), idle = () => {_IDLE};
  addEventListener('pointerup', () => {{
    const released = performance.now();
    let answered = 0;
    const look = () => {{
      if (!answered && holds()) answered = performance.now() - released;
      if (answered && idle()) window.times = [answered, performance.now() - released];
      else requestAnimationFrame(look);
    }};
    requestAnimationFrame(look);
  }}, {{ once: true, capture: true }});
}}"""


class Click(NamedTuple):
    """Milliseconds from the mouse button's release."""

    answered: float
    """The first frame that shows the answer."""
    whole: float
    """The first frame after that in which the page is done."""


def until(page: Page, act: Callable[[], None], shown: str) -> Click:
    """How long a click takes whose answer is there when ``shown``, an expression, holds."""
    page.evaluate(_WATCH, shown)
    act()
    return Click(*page.wait_for_function("window.times", timeout=120_000).json_value())


def press(
    page: Page, target: Locator, dx: float | None = None, dy: float | None = None
) -> Callable[[], None]:
    """A click at a place that is known beforehand: looking for it is no part of the time."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    x = box["x"] + (box["width"] / 2 if dx is None else dx)
    y = box["y"] + (box["height"] / 2 if dy is None else dy)
    return lambda: page.mouse.click(x, y)


def switch_pages(page: Page, rounds: int) -> dict[str, list[Click]]:
    found: dict[str, list[Click]] = {}
    for n in range(rounds + 1):
        for name, content in PAGES.items():
            link = page.get_by_role("navigation").get_by_role("link", name=name, exact=True)
            title = name if name != "Start" else "Read and steer"
            shown = (
                f"document.querySelector('h1')?.innerText.startsWith('{title}') "
                f"&& document.querySelector('{content}')"
            )
            took = until(page, press(page, link), shown)
            # the first visit reads what later ones have at hand
            found.setdefault(f"page switch: {name}" if n else f"first visit: {name}", []).append(took)
    return found


def choose_tokens(tab: Tab, rounds: int) -> list[Click]:
    page = tab.open("/live?site=a12")
    page.locator(".token").first.wait_for()
    found = []
    for n in range(rounds):
        shown = f"new URL(location).searchParams.get('token') === '{n}' && {_IDLE}"
        found.append(until(page, press(page, page.locator(".token").nth(n)), shown))
    return found


def choose_heads(tab: Tab, rounds: int, runs: Path) -> list[Click]:
    """Members of a run, clicked in the grid: what the page shows of them is in the run."""
    folder = max(runs.glob("*/run.json"), key=lambda path: path.stat().st_mtime).parent
    sites = [head.site for head in Run.load(folder).circuit.heads]
    page = tab.open(f"/circuit?run={folder.name}")
    page.locator("[aria-label^='Attention pattern']").wait_for()
    found = []
    for n in range(1, rounds + 2):
        where = parse_site(sites[n % len(sites)])
        x, y = page.evaluate(_CELL, [where.layer, where.head])
        shown = f"document.querySelector('[aria-label^=\"Attention pattern of {where} \"]')"
        found.append(until(page, functools.partial(page.mouse.click, x, y), shown))
        page.wait_for_timeout(600)  # sooner, Plotly takes two clicks for a double one
    return found[1:]


def open_codes(tab: Tab, rounds: int) -> list[Click]:
    found = []
    page = tab.open("/codes?q=%5Cbreturn%5Cw*")
    for n in range(rounds):
        table = page.locator("[data-testid=stDataFrame] .dvn-scroller").first
        table.wait_for()
        page.wait_for_timeout(300)
        act = press(page, table, 50, 52 + 35 * n)
        found.append(until(page, act, "document.querySelector('h1')?.innerText.includes(':')"))
        page.get_by_role("button").filter(has_text="Search").click()
        page.get_by_text("match").first.wait_for()
    return found


def next_codes(tab: Tab, rounds: int) -> list[Click]:
    found = []
    page = tab.open("/codes?code=a11.h6=127")
    for _ in range(rounds + 1):
        name = page.locator("h1").inner_text()
        button = page.get_by_role("button", name="Next")
        shown = f"document.querySelector('h1')?.innerText !== '{name}'"
        found.append(until(page, press(page, button), shown))
        page.wait_for_timeout(300)
    return found[1:]


def first_tokens(tab: Tab, rounds: int) -> list[Click]:
    """From the button to the first new token of both texts on the page; forwards included."""
    found = []
    address = (
        f"/steering?source=by+name&codes=a12.h3=417,a20.h0=5&tokens=20&prompt={PROMPT.replace(' ', '+')}"
    )
    page = tab.open(address)
    written = (
        "[...document.querySelectorAll('[data-testid=stHtml]')]"
        f".filter(e => e.innerText.includes('▌') && e.innerText.trim().length > {len(PROMPT) + 1}).length >= 2"
    )
    for _ in range(rounds + 1):
        button = page.get_by_role("button", name="Steer", exact=True)
        found.append(until(page, press(page, button), written))
        page.wait_for_function(f"!document.body.innerText.includes('▌') && {_IDLE}", timeout=120_000)
    return found[1:]


@torch.no_grad()
def forwards(threads: int, rounds: int) -> list[float]:
    torch.set_num_threads(threads)
    model = load_model()
    tokens = model.to_tokens(PROMPT)
    return [1000 * timed(lambda: model(tokens)).clock for _ in range(rounds + 3)][3:]


def main() -> None:
    given = arguments(__doc__, {"runs": Path}, rounds=5, threads=2)
    plain = forwards(given.threads, 2 * given.rounds)
    starts: dict[str, float] = {}
    times: dict[str, list[Click]] = {}
    begin = time.perf_counter()
    with (
        TemporaryDirectory() as log,
        workbench(given.runs.absolute(), Path(log) / "log", given.threads) as (address, context),
    ):
        starts["server and browser are there"] = time.perf_counter() - begin
        tab = Tab(context, address)
        begin = time.perf_counter()
        tab.page.goto(address)
        tab.page.locator("h1").wait_for()
        starts["first page is there, nothing loaded or cached"] = time.perf_counter() - begin
        tab.page.get_by_text("is ready").wait_for(timeout=300_000)
        starts["model is ready"] = time.perf_counter() - begin
        times |= switch_pages(tab.page, given.rounds)
        times["choose a token"] = choose_tokens(tab, given.rounds)
        times["choose a head"] = choose_heads(tab, given.rounds, given.runs)
        times["open a code from a table"] = open_codes(tab, given.rounds)
        times["next code"] = next_codes(tab, given.rounds)
        times["first steered token (with forwards)"] = first_tokens(tab, given.rounds)
    report(starts, times, statistics.median(plain))


def report(starts: dict[str, float], times: dict[str, list[Click]], plain: float) -> None:
    for name, seconds in starts.items():
        print(f"{name}: {seconds:.1f} s")
    rows: list[tuple] = []
    for name, taken in times.items():
        answered, whole = ([getattr(click, part) for click in taken] for part in Click._fields)
        goal = None if len(taken) == 1 else f"{FIRST_GOAL * plain:.0f}" if "steered" in name else GOAL
        median, done = (f"{statistics.median(each):.0f}" for each in (answered, whole))
        rows.append((name, median, f"{max(answered):.0f}", goal, done))
    rows.append(("a plain forward of the prompt", f"{plain:.0f}"))
    print_table(("ms", "answered, median", "largest", "goal", "whole page, median"), rows)
    steered = statistics.median(click.answered for click in times["first steered token (with forwards)"])
    print(f"\nfirst steered token: {steered / plain:.1f} plain forwards (goal {FIRST_GOAL})")


if __name__ == "__main__":
    main()
