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
            plain = checkable.__init__
            strict = _at_every_call(checkable, typechecker=typechecker).__init__
            if strict is not plain:  # of a dataclass
                checkable.__init__ = _first(plain, strict)
            return checkable
        if "<locals>" in checkable.__qualname__:  # made anew at every call of another
            return checkable
        return _first(checkable, _at_every_call(checkable, typechecker=typechecker))

    return decorate


def _first(plain: Callable, strict: Callable) -> Callable:
    @wraps(plain)
    def call(*args, **kwargs):  # noqa: ANN202
        if plain in checked:
            return plain(*args, **kwargs)
        checked.add(plain)
        return strict(*args, **kwargs)

    return call
