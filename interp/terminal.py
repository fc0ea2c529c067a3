"""The terminal that results are printed on, and what it says can be done next."""

import shlex
from collections.abc import Sequence

from rich.console import Console


def plain_console(width: int | None = None) -> Console:
    """Takes text as it is: names of files and models are no markup, and numbers need no colour."""
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    if console.width < 1:  # COLUMNS=0, as some batch systems have it
        console.width = 80
    return console


def suggest(*steps: tuple[Sequence[str], str]) -> None:
    """What can be done next, as commands to copy: of each the words after ``interp``, and what for."""
    for first, (words, why) in zip(("next", *[""] * len(steps)), steps, strict=False):
        line = f"{first:<9}interp {shlex.join(words)}    # {why}"
        plain_console().print(line, soft_wrap=True)
