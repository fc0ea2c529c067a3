"""The one error a user can mend: its message names the value and what is allowed."""

import math
import operator
from collections.abc import Callable
from dataclasses import Field, fields
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from interp import MOST_SEED

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Bad input from a user: the command line prints its message as one line and exits with status 2."""


class JobsFailedError(RuntimeError):
    """Some jobs failed on every try, all others are done: the command line prints their names as one line, status 1."""

    def __init__(self, failed: dict[str, str], tries: int) -> None:
        named = "; ".join(f"{name}: {why}" for name, why in failed.items())
        super().__init__(f"{len(failed)} jobs failed {tries} times each; the same command tries them again: {named}")


class TooFewPairs(InputError):
    """A task has fewer pairs than it was asked for. Where no number was asked for it is asked for fewer then."""


def one_line(error: BaseException, most: int = 300) -> str:
    """What an error of another library says, on one line: the first of several often only announces the others."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def fault(error: "ValidationError") -> str:
    """The first thing that pydantic finds wrong, with its place, on one line."""
    first, others = error.errors(include_url=False)[0], error.error_count() - 1
    # a key of a damaged file may hold anything
    place = " ".join(".".join(map(str, first["loc"])).split()) or "all of it"
    value = first["input"]  # of what is missing it is all around it
    is_container = first["type"] == "missing" or isinstance(value, dict | list)
    wrong = first["msg"].removeprefix("Value error, ") + ("" if is_container else f", not {value!r:.60}")
    return f"{place}: {wrong}{f', and {others} more' if others else ''}"


def whole_number(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number of Python or of NumPy as an ``int``, which can be hashed, seed a generator and be written as JSON.

    :class:`InputError` if it is none, such as 5.0 and "5", or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} {value!r}: it must be a whole number") from None
    for limit, wrong, word in ((least, operator.lt, "least"), (most, operator.gt, "most")):
        if limit is not None and wrong(number, limit):
            raise InputError(f"{name} {value}: it must be at {word} {limit}")
    return number


def real_number(name: str, value: Any) -> float:
    """A number of Python or of NumPy as a ``float``, else :class:`InputError`.

    NaN is one, so say what is allowed with ``lower <= value``.
    """
    if not isinstance(value, Real):
        raise InputError(f"{name} {value!r}: it must be a number")
    return float(value)


def check_choice(name: str, kind: Any, value: Any) -> None:
    """Raise :class:`InputError` unless a value of a ``Literal`` is one of its words; other types are not checked.

    The message begins with the name, up to the value.
    """
    allowed = get_args(kind) if get_origin(kind) is Literal else ()
    if allowed and value not in allowed:
        raise InputError(f"{name}{value!r}: choose {', '.join(map(str, allowed))}")


_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def check_fields(config: Any) -> None:
    """:func:`check_choice` for every field of a dataclass, :func:`whole_number` for those of type ``int``.

    A number with limits, such as ``Annotated[float, Interval(gt=0, lt=1)]``, is within them and finite, or ``None``.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        kind, *limits = get_args(field.type) if get_origin(field.type) is Annotated else [field.type]
        check_choice(f"{field.name} ", kind, value)
        if kind is int:
            value = whole_number(field.name, value, most=MOST_SEED)
            object.__setattr__(config, field.name, value)
        for limit, (name, words) in product(limits, _LIMITS.items()):
            if value is None or (bound := getattr(limit, name, None)) is None:
                continue
            if not (math.isfinite(value) and getattr(operator, name)(value, bound)):
                raise InputError(f"{field.name} {value}: it must be {words} {bound}")


def parse_field(key: str, text: str, field: Field) -> Any:
    """``key=text`` of a config in the type of the field's default, else :class:`InputError`."""
    check_choice(f"option {key}=", field.type, text)
    kind: Callable[[str], Any] = type(field.default)
    if field.default is None or kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"option {key}={text!r}: it is true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"option {key}={text!r}: it is {kind.__name__}") from None
