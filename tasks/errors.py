"""The one error a user can mend: its message names the value and what is allowed."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin


class InputError(ValueError):
    """Bad input from a user: the command line prints its message as one line and exits with status 2."""


def check_choice(name: str, kind: Any, value: Any) -> None:
    """Raise :class:`InputError` unless a value of a ``Literal`` is one of its words; other types are not checked.

    Args:
        name: what the message begins with, up to the value.
    """
    allowed = get_args(kind) if get_origin(kind) is Literal else ()
    if allowed and value not in allowed:
        raise InputError(f"{name}{value!r}: choose {', '.join(map(str, allowed))}")


def check_choices(config: Any) -> None:
    """:func:`check_choice` for every field of a dataclass."""
    for field in fields(config):
        check_choice(f"{field.name} ", field.type, getattr(config, field.name))
