"""Progress on anything that lasts: a bar with an estimate on stderr, drawn only where somebody looks."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Stage = Callable[[str, int], contextlib.AbstractContextManager[Callable[..., None]]]
"""Opens a named stage of so many steps; its context yields the function that is told how many were just done, and
perhaps a note on how it goes."""


@contextlib.contextmanager
def silent(_name: str, _total: int) -> Iterator[Callable[..., None]]:
    """A stage that shows nothing: the default in Python."""
    yield lambda _done, _note="": None


@contextlib.contextmanager
def bar(name: str, total: int) -> Iterator[Callable[..., None]]:
    """A stage drawn as a bar with an estimate of the time left, on a terminal's stderr."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, note="")
        yield lambda done, note="": progress.update(task, advance=done, note=note)
