"""Reading result files back: whatever is wrong with one is a line that says how to make it again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from interp.files import read_json
from interp.tasks.errors import InputError

Rows = TypeVar("Rows")


def read_rows(path: Path, parse: Callable[[Mapping[str, Any]], Rows], again: str) -> Rows:
    """What ``parse`` makes of a JSON file.

    Args:
        again: how the file is made again, as the message ends.

    Raises:
        InputError: no such file, or one that was damaged.
    """
    try:
        return parse(read_json(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): {again}") from None
