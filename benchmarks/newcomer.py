"""The README's first five minutes, from an empty cache to a steered text in the browser, on a clock.

    python -m benchmarks.newcomer [--rounds 3]

Every round begins without a cache: the README's ``interp why``, then ``interp discover ioi`` as ``make run`` calls it,
of which the README's lines have to be printed. Then the workbench on the runs folder: *Why* opens, and *Steer* is
pressed on *Steering*, which opens on the topic *fire*. Reading and moving the mouse take no time here.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.common import RESULTS, arguments, print_table, workbench
from interp.files import write_json
from tests.browser.workbench import Tab

RESULT = RESULTS / "newcomer.json"
README = (Path(__file__).parents[1] / "README.md").read_text()


def main() -> None:
    given = arguments(__doc__, rounds=3)
    rounds = []
    for _ in range(given.rounds):
        with TemporaryDirectory() as folder:
            rounds.append(walk(Path(folder)))
        write_json(RESULT, rounds)
    show(rounds)


def walk(home: Path) -> dict[str, float]:
    """Seconds of every step, and the share of the README's lines that ``make run`` printed."""
    os.environ |= {"INTERP_CACHE": str(home / "cache"), "COLUMNS": "120"}
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def reached(step: str) -> None:
        nonlocal began
        seconds[step] = time.perf_counter() - began
        print(f"{seconds[step]:5.0f} s  {step}", flush=True)
        began = time.perf_counter()

    prompts = re.findall(r'"([^"]+)"', README[README.index("interp why") :])[:2]
    _interp(home, "why", *prompts)
    reached("interp why")
    printed = _squeezed(_interp(home, "discover", "ioi"))
    reached("interp discover ioi")
    with workbench(home / "runs", home / "log", os.cpu_count() or 1) as (address, context):
        page = Tab(context, address).page
        page.goto(address)
        page.locator("h1").wait_for(timeout=60_000)
        reached("the workbench opens")
        page.get_by_role("navigation").get_by_role("link", name="Steering", exact=True).click()
        page.get_by_role("button", name="Steer", exact=True).click(timeout=120_000)
        page.get_by_text("perplexity").first.wait_for(timeout=120_000)
        reached("a steered text")
    promised = [line for line in map(_squeezed, _block("ioi on smollm2").splitlines()) if line.strip("… ")]
    missing = [line for line in promised if line not in printed]
    print(*(f"not printed: {line}" for line in missing), sep="\n")
    return seconds | {"README's lines printed": 1 - len(missing) / len(promised)}


def _interp(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "interp.cli.main", *words]
    return subprocess.run(command, cwd=home, check=True, stdout=subprocess.PIPE, text=True).stdout


def _block(begin: str) -> str:
    """The README's code block that begins so."""
    return next(block for block in README.split("```") if block.strip().startswith(begin))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def show(rounds: list[dict[str, float]]) -> None:
    """Seconds by step: the median of all rounds, and each."""
    rows = []
    for step in rounds[0]:
        values = [seconds[step] for seconds in rounds]
        form = ".0%" if step.endswith("printed") else ".0f"
        rows.append((step, f"{median(values):{form}}", ", ".join(f"{value:{form}}" for value in values)))
    print_table(("seconds, empty cache", "median", "rounds"), rows)


if __name__ == "__main__":
    main()
