"""Annotations are checked while tests run, shapes of tensors too: each function's at its first calls in every test.

At every call, and of hooks, which are made anew at every call, they took longer than all that is tested.
"""

from collections import Counter
from collections.abc import Callable
from functools import wraps

from beartype import beartype

CALLS = 3
checked: Counter[Callable] = Counter()


def first_calls(function: Callable) -> Callable:
    """The type checker that jaxtyping is given; it checks arguments by one function and the result by another."""
    if "<locals>" in function.__qualname__:
        return function
    strict = beartype(function)

    @wraps(function)
    def check(*args, **kwargs):  # noqa: ANN202
        if checked[function] < CALLS:
            checked[function] += 1
            return strict(*args, **kwargs)
        return None

    return check
