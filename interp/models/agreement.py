"""A wrapped model must say what the model itself says; looked at when it is loaded, on a few tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.tasks.errors import InputError, one_line

TOKENS = 4
"""What a position gets wrong shows from the second on."""
_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2}
_ROUGH_TOLERANCE = 0.2
"""Of the largest logit: numbers of 16 bits round in another order in each."""


@torch.no_grad()
def few_logits(
    model: nn.Module, d_vocab: int, context: int, device: torch.device, library: str
) -> Float[Tensor, "pos d_vocab"]:
    """Logits at a few tokens from all over the vocabulary, of a model of transformers or a wrapped one.

    Args:
        library: whose forward it is, for the message.

    Raises:
        InputError: the forward fails.
    """
    length = min(TOKENS, context)
    ids = torch.tensor([[k * d_vocab // length for k in range(length)]], device=device)
    try:
        out = model(ids)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, NotImplementedError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{library} cannot run this model: {one_line(error)}") from error
    return (out if isinstance(out, Tensor) else out.logits)[0].float()


def check_agreement(
    wrapped: Float[Tensor, "pos d_vocab"],
    own: Float[Tensor, "pos d_vocab"],
    dtype: torch.dtype,
    architecture: str,
) -> None:
    """Raise :class:`InputError` unless logits are those of the model before it was wrapped.

    Logits that are no numbers are told where they matter.
    """
    error = ((wrapped - own).abs().max() / own.abs().max()).item()
    if error > _TOLERANCE.get(dtype, _ROUGH_TOLERANCE):
        raise InputError(
            f"transformer-lens runs the architecture {architecture} otherwise than transformers does: logits are off "
            f"by {error:.0%}, so what would be found is of no model"
        )
