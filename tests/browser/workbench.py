"""The workbench as a process of its own, and a tab of a browser that minds what goes wrong in it."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.command_line import ONE_THREAD

ROOT = Path(__file__).parent.parent.parent
HEIGHT = 900
STARTS = 120
"""Seconds that a server may take to answer on a busy machine."""
PATIENCE = 120_000
"""Milliseconds that a page may take there: the first one waits for the libraries."""


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(n)]


@contextlib.contextmanager
def serve(runs: Path, log: Path, model: str | None = None, *, threads: int = 1) -> Iterator[str]:
    """The address of a workbench on a runs folder; it ends with the block."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py")]
    settings = {"INTERP_RUNS": str(runs), "OMP_NUM_THREADS": str(threads)}
    settings |= {} if model is None else {"INTERP_MODEL": model}
    with started([*command, "--server.port", str(port)], port, log, cwd=runs, **settings) as address:
        yield address


@contextlib.contextmanager
def started(command: list[str], port: int, log: Path, *, cwd: Path, **settings: str) -> Iterator[str]:
    """The address of a server that a command starts, once it answers; what it says goes to ``log``."""
    quiet = {"STREAMLIT_SERVER_HEADLESS": "true", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    with open(log, "w", encoding="utf-8") as out:
        environment = os.environ | ONE_THREAD | quiet | settings
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + STARTS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the workbench did not start: {log.read_text(encoding='utf-8')}")


class Tab:
    """A tab on the workbench.

    Attributes:
        page: Playwright's.
        trouble: console errors, exceptions, dialogs, failed requests and any request to elsewhere.
    """

    def __init__(self, context, address: str, *, width: int = 1280, scheme: str = "light") -> None:
        self.address, self.trouble = address, []
        self.page = context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.set_viewport_size({"width": width, "height": HEIGHT})
        self.page.emulate_media(color_scheme=scheme)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", lambda r: self._note(f"elsewhere: {r.url}") if self._elsewhere(r.url) else None)
        self.page.on("dialog", self._dialog)

    def open(self, path: str = "/"):
        """Go to a page of the workbench and wait until it has been drawn."""
        self.page.goto(self.address + path)
        self.page.locator("h1, [data-testid=stException]").first.wait_for(timeout=PATIENCE)
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the page's script has run."""
        self.page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=PATIENCE)

    def choose(self, label: str | re.Pattern[str], option: str) -> None:
        """Pick an option of a box by what the option's name contains.

        The list of a box closes whenever the page scrolls, as it does while an expander unfolds, so nothing may move.
        """
        self.page.wait_for_function(
            "() => document.getAnimations().every(a => a.effect.getComputedTiming().endTime === Infinity)"
        )
        self.page.get_by_role("combobox", name=label).click()
        self.page.keyboard.type(option)
        self.page.get_by_role("option").filter(has_text=option).click()

    def exceptions(self) -> list[str]:
        """What Streamlit shows where a script fails."""
        return self.page.locator("[data-testid=stException]").all_inner_texts()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate(
            "Math.max(...[document.scrollingElement, document.querySelector('[data-testid=stMain]')]"
            ".map(e => e.scrollWidth - e.clientWidth))"
        )

    def close(self) -> None:
        self.page.close()

    def _console(self, message) -> None:
        # Streamlit looks for its server below the page's address first, then where it is
        looking = re.search(r"/\w+/_stcore/(health|host-config)$", message.location["url"])
        if message.type == "error" and not looking:
            self._note(f"console: {message.text} {message.location['url']}")

    def _note(self, text: str) -> None:
        self.trouble.append(text)

    def _elsewhere(self, url: str) -> bool:
        return not url.startswith((self.address, "data:", "blob:", "about:"))

    def _failed(self, request) -> None:
        # what a page that is left still asked for
        if request.failure != "net::ERR_ABORTED":
            self._note(f"failed: {request.url} {request.failure}")

    def _dialog(self, dialog) -> None:
        self._note(f"dialog: {dialog.message}")
        dialog.dismiss()


def complaints(log: Path) -> list[str]:
    """Lines of a server's log that tell of an exception."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if re.search(r"Traceback|Uncaught", line)]


def is_inert(page) -> bool:
    """Whether no markup of a text or a name was run."""
    return page.evaluate("window.hacked === undefined && !document.querySelector('img[src=x]')")
