"""Progress on anything that lasts: a bar with an estimate on stderr; where that is no terminal, a line now and then."""

import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import rich.progress
from rich.console import Console

log = logging.getLogger(__name__)


@contextlib.contextmanager
def status(message: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr when that is a terminal, else a log line; yields what changes the message."""
    console = Console(stderr=True)
    with _quiet_bars():
        if not console.is_terminal:
            log.info(message)
            yield log.info
            return
        with console.status(message) as spinner:
            yield spinner.update


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, nor what a library that asks nobody writes to stderr."""
    with _quiet_bars(), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _quiet_bars() -> Iterator[None]:
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


Stage = Callable[[str, int], contextlib.AbstractContextManager[Callable[..., None]]]
"""Opens a named stage of so many steps; its context yields the function that is told how many were just done, and
perhaps a note on how it goes."""


@contextlib.contextmanager
def silent(_name: str, _total: int) -> Iterator[Callable[..., None]]:
    """A stage that shows nothing: the default in Python."""
    yield lambda _done, _note="": None


def timed(stage: Stage, seconds: dict[str, float]) -> Callable[..., contextlib.AbstractContextManager]:
    """The same stages, of one step unless told; how long each took is added up in ``seconds``."""

    @contextlib.contextmanager
    def measured(name: str, total: int = 1) -> Iterator[Callable[..., None]]:
        begin = time.perf_counter()
        with stage(name, total) as advance:
            yield advance
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - begin, 3)

    return measured


EVERY = 30.0  # seconds between two lines where stderr is no terminal
_last_line = time.monotonic()  # of whichever stage: many short ones are told of as well


@contextlib.contextmanager
def bar(name: str, total: int) -> Iterator[Callable[..., None]]:
    """A stage with an estimate of the time left, on stderr: a bar on a terminal, elsewhere a line every half minute."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(name, total)
        return
    columns = (
        rich.progress.TextColumn("{task.description:<28}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
    )
    with rich.progress.Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total, note="")
        yield lambda done, note="": progress.update(task, advance=done, note=note)


def _lines(name: str, total: int) -> Callable[..., None]:
    began, so_far = time.monotonic(), 0

    def tell(done: int, note: str = "") -> None:
        global _last_line
        nonlocal so_far
        so_far += done
        now = time.monotonic()
        if so_far and now - _last_line >= EVERY:
            _last_line = now
            passed = now - began
            left = timedelta(seconds=round(passed / so_far * max(total - so_far, 0)))
            line = f"{name}  {so_far}/{total}  {timedelta(seconds=round(passed))}, left {left}  {note}"
            sys.stderr.write(f"{line.rstrip()}\n")

    return tell


def whole_steps(advance: Callable[[int], None] | None, total: int) -> Callable[[float], None]:
    """A function that is told which share of the work is done, and passes on whole steps, so many in all."""
    reported = 0

    def tell(share: float) -> None:
        nonlocal reported
        reached = int(total * min(1.0, share) + 1e-9)
        if advance is not None and reached > reported:
            advance(reached - reported)
        reported = max(reported, reached)

    return tell


def counted(tell: Callable[[float], None], total: int) -> Callable[[int], None]:
    """A progress that is told steps, of so many in all, and tells which share of them is done."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        tell(done / total)

    return advance
