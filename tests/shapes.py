"""Annotations are checked while tests run, shapes of tensors too: each function's at its first call in every test.

Checked at every call, they took longer than all that is tested. ``jaxtyping`` binds arguments at every call even of
what it does not check, so that from the second call on a function is called directly.
"""

from collections.abc import Callable
from functools import wraps

import jaxtyping

checked: set[Callable] = set()
_at_every_call = jaxtyping.jaxtyped


def check_package(name: str) -> None:
    """From now on modules of ``name`` are loaded with checks."""
    jaxtyping.jaxtyped = at_first_call
    jaxtyping.install_import_hook(name, "beartype.beartype")


def at_first_call(*, typechecker: Callable) -> Callable:
    """Decorates all functions and classes of a checked module, in place of ``jaxtyping.jaxtyped``."""

    def decorate(checkable: Callable) -> Callable:
        if isinstance(checkable, type):
            return _at_every_call(checkable, typechecker=typechecker)
        if "<locals>" in checkable.__qualname__:  # made anew at every call of another
            return checkable
        strict = _at_every_call(checkable, typechecker=typechecker)

        @wraps(checkable)
        def call(*args, **kwargs):  # noqa: ANN202
            if checkable in checked:
                return checkable(*args, **kwargs)
            checked.add(checkable)
            return strict(*args, **kwargs)

        return call

    return decorate
