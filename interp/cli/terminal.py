"""The terminal: what can be done next, and one line on stderr with a non-zero exit status where something goes wrong.

The status is 2 for a mistake that the user can mend, 1 where a check of ``interp doctor`` failed, or the machine did
(disk, memory), 130 when interrupted, and 141 where the reader of a pipe had enough. A traceback is a bug of ours.
"""

import contextlib
import os
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from interp.errors import InputError, JobsFailedError


def plain_console(width: int | None = None) -> Console:
    """Takes text as it is: names of files and models are no markup, and numbers need no colour."""
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    if console.width < 1:  # COLUMNS=0, as some batch systems have it
        console.width = 80
    return console


def table(
    columns: Sequence[str],
    rows: Iterable[Iterable[Any]],
    *,
    left: Collection[str] | None = None,
    no_wrap: bool = False,
    **look: Any,
) -> Table:
    """A table without lines. Columns that ``left`` does not name hold numbers, and stand at the right; ``None``: none
    does. With ``no_wrap`` a row is a line, and where it is too long a last column of words is cut."""
    drawn = Table(box=None, **look)
    words = no_wrap and columns[-1] in (left or ())
    for name in columns:
        cut = words and name == columns[-1]
        justify: Literal["left", "right"] = "left" if left is None or name in left else "right"
        drawn.add_column(name, justify=justify, no_wrap=no_wrap and not cut)
    for row in rows:
        cells = [cell if isinstance(cell, Text) else str(cell) for cell in row]
        if words:
            cells[-1] = Text(str(cells[-1]), no_wrap=True, overflow="ellipsis")
        drawn.add_row(*cells)
    return drawn


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command, but for those that are ``None``."""
    return [str(word) for pair in options.items() if pair[1] is not None for word in pair]


def suggest(*steps: tuple[Sequence[str], str]) -> None:
    """What can be done next, as commands to copy: of each the words after ``interp``, and what for."""
    for first, (words, why) in zip(("next", *[""] * len(steps)), steps, strict=False):
        line = f"{first:<9}interp {shlex.join(words)}    # {why}"
        plain_console().print(line, soft_wrap=True)


INTERRUPTED = 130
UNTOUCHED = "nothing half-written is left, an earlier result stays as it was"
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def run(app: typer.Typer) -> NoReturn:
    """Run the command line and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows what it can
    try:
        for word in sys.argv[1:]:
            _check_text(word)
        code = app(standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer turns Ctrl-C into a status, some of its versions into an Abort
            raise KeyboardInterrupt
    except InputError as error:
        fail(_with_flag(str(error)), 2)
    except JobsFailedError as error:
        fail(str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        fail(f"interrupted: {UNTOUCHED}", INTERRUPTED)
    except BrokenPipeError:
        _reader_left()
    except SystemExit as leaving:  # what rich and typer make of a closed pipe
        if isinstance(leaving.__context__, BrokenPipeError):
            _reader_left()
        raise
    except OSError as error:
        file_name = f"{error.filename}: " if error.filename else ""
        fail(f"{file_name}{error.strerror or error}: {UNTOUCHED}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):
            _usage(error)
        if not isinstance(error, MemoryError) and not any(text in str(error).lower() for text in _NO_MEMORY):
            raise
        fail(f"out of memory: a smaller --batch-size or --dtype bfloat16, where there are, may do; {UNTOUCHED}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _with_flag(message: str) -> str:
    """The argument that a library's error begins with, as the option that gave it."""
    argument, _, rest = message.partition(" ")
    flag = f"--{argument.replace('_', '-')}"
    return f"{flag} {rest}" if any(word.partition("=")[0] == flag for word in sys.argv) else message


def _reader_left() -> NoReturn:
    # what is still buffered would fail once more when Python ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _check_text(word: str) -> None:
    """Refuse nothing where something is named, and what could not be written down in a result."""
    if not word or (word.startswith("--") and word.endswith("=")):
        raise InputError(f"argument {word!r} is empty")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise InputError(f"argument {word!r} is no UTF-8 text") from None


@contextlib.contextmanager
def goes_on(place: Path) -> Iterator[None]:
    """Around work that is kept as it is done: an interrupt says that the same command goes on from there."""
    try:
        yield
    except KeyboardInterrupt:
        fail(f"interrupted: the same command goes on from {place}", INTERRUPTED)


def fail(message: str, status: int) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)


def _usage(error: Any) -> NoReturn:
    """A mistake in the words themselves, found by typer; without a message it is help, which is printed already."""
    message = error.format_message().rstrip(".")
    if not message:
        sys.exit(2)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "interp"
    fail(message if message.startswith("Invalid value") else f"{message} (see {command} --help)", 2)
