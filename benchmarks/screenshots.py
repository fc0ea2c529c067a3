"""Pictures of every page at two widths and in both themes: ``python -m benchmarks.screenshots OUT``.

The real server on the default model. What the pages show is made first, in ``OUT/runs`` (some ten minutes, once): two
runs, a code index and a bench. ``--only``: pictures whose names begin so.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.common import arguments, workbench
from tests.browser.workbench import HEIGHT, Tab

WIDTHS, SCHEMES = (1280, 800), ("light", "dark")
TALLEST = 4000
ARMS = "beside=Difference+of+means&beside=Said+in+the+prompt"
COMMANDS = {
    "ioi/run.json": "discover ioi -n 24",
    "ioi-attribution/run.json": "discover ioi -n 24 --method attribution",
    "index/manifest.json": "index build --tokens 16000",
    "bench/bench.json": "bench --tasks planted-induction,planted-backup --pairs 10,25 --seeds 3 "
    "--methods attribution,adaptive-patching,eap,mean-difference,overlap,layer-index,random",
}


@dataclass(frozen=True)
class Picture:
    """A page, and what is done on it before it is taken."""

    name: str
    path: str
    prepare: Callable[[Page], None] = lambda _page: None


def _steer(page: Page) -> None:
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("perplexity").nth(3).wait_for(timeout=120_000)
    page.get_by_role("listbox", name="Tokens of Codes").locator(".token").nth(12).click()
    page.get_by_text("at the token before").wait_for(timeout=120_000)


def _play(page: Page) -> None:
    page.locator("[data-node='0']").click(timeout=120_000)
    page.get_by_role("button", name="Patch B's value").click()
    page.get_by_text("A, edited").first.wait_for(timeout=120_000)


def _ready(page: Page) -> None:
    page.get_by_text("is ready").wait_for(timeout=120_000)


def _set_a_code(page: Page) -> None:
    page.get_by_role("button", name="Set it").click()
    page.get_by_text("with a random code by").wait_for(timeout=120_000)


PICTURES = (
    Picture("why", "/", _play),
    Picture("start", "/start", _ready),
    Picture("live", "/live?site=a12&token=9"),
    Picture("gallery", "/codes?index=index"),
    Picture("codes", "/codes?q=%5Cbreturn%5Cw*"),
    Picture("code", "/codes?code=a11.h6=127"),
    Picture("circuit", "/circuit?run=ioi"),
    Picture("circuit-code", "/circuit?run=ioi&read=true", _set_a_code),
    Picture("circuit-edges", "/circuit?run=ioi&tab=Edges"),
    Picture("circuit-compared", "/circuit?run=ioi&tab=Compared&with=ioi-attribution"),
    Picture("circuit-report", "/circuit?run=ioi&tab=Report"),
    Picture("steering", f"/steering?{ARMS}", _steer),
    Picture("evaluation", "/evaluation?bench=bench"),
    Picture("evaluation-codebooks", "/evaluation?show=Codebooks"),
    Picture("evaluation-machine", "/evaluation?show=Finite-state+machine"),
)


def make(runs: Path) -> None:
    """What the pages show, where it is not there yet."""
    runs.mkdir(parents=True, exist_ok=True)
    for name, words in COMMANDS.items():
        if not (runs / name).is_file():
            out = ["--out", str((runs / name).parent)]
            subprocess.run([sys.executable, "-m", "interp.cli.main", *words.split(), *out], check=True)


def take(out: Path, wanted: str) -> list[str]:
    """Every picture whose name begins with ``wanted``; what went wrong meanwhile."""
    trouble = []
    with workbench(out / "runs", out / "server.log", 2) as (address, context):
        for scheme in SCHEMES:
            for picture in (p for p in PICTURES if p.name.startswith(wanted)):
                tab = Tab(context, address, scheme=scheme)
                tab.open(picture.path)
                picture.prepare(tab.page)
                for width in WIDTHS:
                    _shoot(tab, width, out / f"{picture.name}-{width}-{scheme}.png")
                trouble += [f"{picture.name}, {scheme}: {line}" for line in (*tab.trouble, *tab.exceptions())]
                tab.close()
    return trouble


def _shoot(tab: Tab, width: int, path: Path) -> None:
    """The whole page, at most ``TALLEST`` pixels of it."""
    tab.page.set_viewport_size({"width": width, "height": HEIGHT})
    tab.page.wait_for_timeout(700)  # figures and tables follow the width
    height = tab.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    tab.page.set_viewport_size({"width": width, "height": max(HEIGHT, min(height, TALLEST))})
    tab.page.wait_for_timeout(700)
    tab.page.screenshot(path=path)


def main() -> int:
    given = arguments(__doc__, {"out": Path}, only="")
    out = given.out.absolute()
    make(out / "runs")
    trouble = take(out, given.only)
    for line in trouble:
        print(line, file=sys.stderr)
    return bool(trouble)


if __name__ == "__main__":
    sys.exit(main())
