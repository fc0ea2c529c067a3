"""What every shipped task shares when it samples: checked arguments, seeded streams, its word lists."""

import json
import random
from importlib.resources import files

from .errors import InputError
from .pairs import Task


def check_request(task: Task, n: int, counterfactual: str | None) -> str:
    """Return the counterfactual kind to use (the task's default for ``None``).

    Raises:
        InputError: ``n`` is not positive, or the task has no such kind.
    """
    if n < 1:
        raise InputError(f"n is {n!r}: ask the task {task.name} for a positive whole number of pairs")
    if counterfactual is None:
        return task.counterfactuals[0]
    if counterfactual not in task.counterfactuals:
        raise InputError(
            f"the task {task.name} has no counterfactual {counterfactual!r}: "
            f"choose one of {', '.join(task.counterfactuals)}"
        )
    return counterfactual


def seeded(*parts: object) -> random.Random:
    """A random stream that depends on nothing but ``parts``.

    Clean and corrupt prompts draw from different streams, so that the clean prompts of a seed stay the same
    whichever counterfactual is asked for, and the first 50 of 100 pairs are the 50 pairs of the same seed.
    """
    return random.Random("/".join(map(str, parts)))


def read_data(name: str) -> dict:
    """The word lists and templates in ``data/<name>.json``."""
    return json.loads((files(__package__) / "data" / f"{name}.json").read_text(encoding="utf-8"))


def require_words(task: str, kind: str, usable: int, needed: int) -> None:
    """Raise an InputError when the tokenizer leaves too few of a word list as single tokens."""
    if usable < needed:
        raise InputError(
            f"the task {task} needs at least {needed} {kind} that are one token each with a leading space; "
            f"this tokenizer leaves {usable}"
        )
