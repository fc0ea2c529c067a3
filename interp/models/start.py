"""Forward passes that start in the middle: blocks below a layer are skipped and its input is given.

An intervention at layer l leaves everything below l as it was, so half of a sweep's work on average can be saved.
The bridge hands the layer loop to the original model, which has no such argument. We let that model run as it does
(embedding, masks, position embeddings, final norm, soft-caps stay its own) but turn the ``forward`` of the blocks
below l into the identity, and set the residual stream at the input of block l. Bit-equal to the whole forward on
every family tested.
"""

import contextlib
import weakref
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from interp.models.device import model_device
from interp.models.hooks import hooked, model_lock

_returns_tuple: "weakref.WeakKeyDictionary[TransformerBridge, bool]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def starting_at(
    model: TransformerBridge, layer: int, resid_pre: Float[Tensor, "batch pos d_model"]
) -> Iterator[None]:
    """Within the body a forward of tokens of this batch and length begins at ``layer`` with ``resid_pre``."""
    with model_lock(model):
        wrap = _blocks_return_tuples(model)
        skipped = list(model.blocks)[:layer]

        def identity(hidden_states: Tensor, *_args, **_kwargs):
            return (hidden_states,) if wrap else hidden_states

        try:
            for block in skipped:
                # past nn.Module's and the bridge's own __setattr__, which would register it on the wrapped component
                object.__setattr__(block, "forward", identity)
            with hooked(model, {f"blocks.{layer}.hook_resid_pre": lambda _: resid_pre}):
                yield
        finally:
            for block in skipped:
                block.__dict__.pop("forward", None)


def _blocks_return_tuples(model: TransformerBridge) -> bool:
    """Whether the model's layer loop expects ``(hidden_states, …)`` from a block rather than a tensor."""
    if model not in _returns_tuple:
        seen = []
        handle = model.blocks[0].register_forward_hook(lambda _m, _i, output: seen.append(type(output)))
        try:
            with torch.no_grad():
                model(torch.zeros(1, 2, dtype=torch.long, device=model_device(model)))
        finally:
            handle.remove()
        _returns_tuple[model] = issubclass(seen[0], tuple)
    return _returns_tuple[model]
