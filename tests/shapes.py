"""Annotations are checked while tests run, shapes of tensors too: each function's at its first call in every test.

At every call, and of hooks, which are made anew at every call, they took longer than all that is tested.
"""

from collections.abc import Callable
from functools import wraps

from beartype import beartype

checked: set[Callable] = set()


def first_call(function: Callable) -> Callable:
    """The type checker that jaxtyping is given; it checks arguments by one function and the result by another."""
    if "<locals>" in function.__qualname__:
        return function
    strict = beartype(function)

    @wraps(function)
    def check(*args, **kwargs):  # noqa: ANN202
        if function in checked:
            return None
        checked.add(function)
        return strict(*args, **kwargs)

    return check
