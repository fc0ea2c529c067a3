"""Forward passes that skip the first positions: their keys and values come from an earlier forward.

A clean and a corrupt prompt are equal up to their first different token, and attention is causal: whatever is swapped
from one into the other, every activation before that token stays as it was. So a forward with a swap needs to run
the later positions only, attending to the keys and values that earlier ones have anyway. It is the KV cache of
generation, filled once and never written to again.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from interp.models.hooks import model_lock


class _FrozenLayer(DynamicLayer):
    """Puts the prefix before the new keys and values and forgets the new ones; repeats it over copies of the batch."""

    def __init__(self, filled: DynamicLayer) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = filled.keys, filled.values, True
        self.rows: list[int] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any):
        copies = len(key_states) // len(self.keys)

        def spread(kept: Tensor) -> Tensor:
            return kept.repeat(copies, 1, 1, 1) if self.rows is None else kept[self.rows]

        return tuple(
            torch.cat([spread(kept), new], dim=-2)
            for kept, new in ((self.keys, key_states), (self.values, value_states))
        )


class Prefix:
    """The keys and values of the first positions of a batch of prompts, at every layer.

    ``length`` is how many positions there are: 0 for a model that cannot take them from a cache (native bridges, that
    is planted and legacy models), which then runs every position as usual.
    """

    def __init__(self, model: TransformerBridge, tokens: Int[Tensor, "batch prefix"]) -> None:
        self.length = tokens.shape[1] if isinstance(model.original_model, PreTrainedModel) else 0
        self._cache = DynamicCache()
        if self.length:
            with torch.no_grad(), self.before(model):
                model(tokens)
            self._cache.layers = [_FrozenLayer(layer) for layer in self._cache.layers]

    @contextlib.contextmanager
    def before(self, model: TransformerBridge, rows: list[int] | None = None) -> Iterator[None]:
        """Within the body a forward of tokens is read as coming after the prefix.

        The batch may be several copies of the prefix's, one below the other, or ``rows`` of it. Hooks see the later
        positions only, numbered from 0. Enter it after :func:`~interp.models.start.starting_at`, which may have to try
        the model once. Bit-close, not bit-equal, to the whole forward: matrix products of other shapes round otherwise.
        """
        if not self.length:
            yield
            return

        def hand_over(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]):
            return args, {**kwargs, "past_key_values": self._cache}

        with model_lock(model):
            for layer in self._cache.layers:
                layer.rows = rows
            handle = model.original_model.register_forward_pre_hook(hand_over, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()
