"""Where a forward begins: with a KV cache a hook sees one position at a time, and must know which one it is.

Without a cache every step of a generation is a forward from position 0 that looks like any other: what was prompt and
what is generated can only be told by who generates.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

_generations: "weakref.WeakKeyDictionary[TransformerBridge, object]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def forwards_watched(model: TransformerBridge, begin: Callable[[int], None]) -> Iterator[None]:
    """Call ``begin`` before every forward of ``model`` in the body, with how many positions its KV cache holds.

    That is 0 for a plain forward, for the first one of a generation, and for each one of a generation without a
    cache; the positions that hooks see in the forward are numbered from there.
    """

    def watch(_module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        begin(0 if cache is None else int(cache.get_seq_length()))

    handle = model.original_model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def generation_marked(model: TransformerBridge) -> Iterator[None]:
    """Within the body :func:`running_generation` gives an object of this one generation; holds no lock."""
    outer, _generations[model] = _generations.get(model), object()
    try:
        yield
    finally:
        if outer is None:
            del _generations[model]
        else:  # one generation within another, as what watches a generation may do
            _generations[model] = outer


def running_generation(model: TransformerBridge) -> object | None:
    """What stands for the generation under way, the same in all its forwards; None for a forward by itself."""
    return _generations.get(model)
