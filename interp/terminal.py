"""The terminal that results are printed on."""

from rich.console import Console


def plain_console(width: int | None = None) -> Console:
    """Takes text as it is: names of files and models are no markup, and numbers need no colour."""
    return Console(highlight=False, markup=False, emoji=False, width=width)
