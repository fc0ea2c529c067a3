"""From an installation to a steered text in the browser, as the README tells it, on a clock.

    python -m benchmarks.newcomer

With an empty cache: ``interp discover ioi`` as ``make run`` calls it, then the workbench on the runs folder, where
*Steer* is pressed on *Steering*, which opens on the topic *fire*. Reading and moving the mouse take no time here.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import workbench
from tests.browser.workbench import Tab


def main() -> None:
    began = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - began:5.0f} s  {what}", flush=True)

    with TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["INTERP_CACHE"] = str(home / "cache")
        command = [sys.executable, "-m", "interp.cli.main", "discover", "ioi"]
        subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL)
        say("make run has found the circuit")
        with workbench(home / "runs", home / "log", os.cpu_count() or 1) as (address, context):
            page = Tab(context, address).page
            page.goto(address)
            page.locator("h1").wait_for(timeout=60_000)
            say("the workbench is there")
            page.get_by_role("navigation").get_by_role("link", name="Steering", exact=True).click()
            page.get_by_role("button", name="Steer", exact=True).click(timeout=120_000)
            page.get_by_text("perplexity").first.wait_for(timeout=120_000)
            say("base and steered text are written")


if __name__ == "__main__":
    main()
