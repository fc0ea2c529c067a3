"""Setting a slot's code on a prompt of one's own."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import end_logits
from interp.models import Model, model_device
from interp.programs.slots import Slot


@torch.no_grad()
def set_code(
    model: Model,
    tokens: Sequence[int],
    slot: Slot,
    position: int,
    codes: Float[np.ndarray, "code d"],
    code: int,
) -> tuple[int, Float[Tensor, " d_vocab"], Float[Tensor, " d_vocab"]]:
    """Set a slot's z to z + c(code) − c(own) at one position of a prompt.

    Args:
        codes: the slot's, from :attr:`~interp.programs.program.Program.books`.

    Returns:
        Its own code there, the nearest one, and the logits of the next token before and after.
    """
    vectors, at, own = torch.from_numpy(codes), (torch.tensor([0]), torch.tensor([position])), 0

    def read(x: Tensor) -> None:
        nonlocal own
        own = int((vectors - slot.pick(x, *at).float().cpu()).square().sum(-1).argmin())

    def put(x: Tensor) -> Tensor:
        x = x.clone()
        slot.put(x, *at, (vectors[code] - vectors[own])[None], add=True)
        return x

    row = torch.tensor([list(tokens)], device=model_device(model))
    before, after = (end_logits(model, row, {slot.site.hook: hook})[0].float().cpu() for hook in (read, put))
    return own, before, after


def same_place(tokens: Sequence[int], example: Sequence[int], position: int) -> int:
    """Where a prompt has what stands at a position of another one: the last token for the last one, else the same
    token, counted from the left, else the same position."""
    if position == len(example) - 1:
        return len(tokens) - 1
    places = [i for i, token in enumerate(tokens) if token == example[position]]
    nth = list(example[:position]).count(example[position])
    return places[nth] if nth < len(places) else min(position, len(tokens) - 1)
