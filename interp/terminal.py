"""The terminal that results are printed on."""

from rich.console import Console


def plain_console(width: int | None = None) -> Console:
    """Takes text as it is: names of files and models are no markup, and numbers need no colour."""
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    if console.width < 1:  # COLUMNS=0, as some batch systems have it
        console.width = 80
    return console
