"""Where a forward begins: with a KV cache a hook sees one position at a time, and must know which one it is."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from transformer_lens.model_bridge import TransformerBridge


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
