"""Setting the codes of slots on a prompt of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import end_logits
from interp.bottlenecks.base import Codes
from interp.bottlenecks.codebook import Codebook
from interp.models import HookFunction, Model, model_device
from interp.programs.slots import Slot


@dataclass(frozen=True)
class CodeAt:
    """One code that is to stand at a slot, whose role stands at a position of the prompt; ``book`` is the slot's."""

    slot: Slot
    position: int
    book: Codebook
    code: int


@torch.no_grad()
def set_codes(
    model: Model, tokens: Sequence[int], wanted: Sequence[CodeAt]
) -> tuple[list[int], Float[Tensor, " d_vocab"], Float[Tensor, " d_vocab"]]:
    """Set z to z + c(code) − c(own) at slots of a prompt.

    Returns:
        The slots' own codes, and the logits of the next token before and after.
    """
    row = torch.tensor([list(tokens)], device=model_device(model))
    at = [(one, (torch.tensor([0]), torch.tensor([one.position]))) for one in wanted]
    own: dict[CodeAt, int] = {}

    def reader(hook: str) -> HookFunction:
        def read(x: Tensor) -> None:
            for one, where in at:
                if one.slot.site.hook == hook:
                    own[one] = int(one.book.encode(one.slot.pick(x, *where).float().cpu()).ids)

        return read

    def writer(hook: str) -> HookFunction:
        def write(x: Tensor) -> Tensor:
            x = x.clone()
            for one, where in at:
                if one.slot.site.hook == hook:
                    new, old = one.book.decode(
                        Codes(torch.tensor([[one.code], [own[one]]]), torch.ones(2, 1))
                    )
                    one.slot.put(x, *where, (new - old)[None], add=True)
            return x

        return write

    hooks = {one.slot.site.hook for one in wanted}
    before, after = (
        end_logits(model, row, {hook: make(hook) for hook in hooks})[0].float().cpu()
        for make in (reader, writer)
    )
    return [own[one] for one in wanted], before, after


def same_place(tokens: Sequence[int], example: Sequence[int], position: int) -> int:
    """Where a prompt has what stands at a position of another one: the last token for the last one, else the same
    token, counted from the left, else the same position."""
    if position == len(example) - 1:
        return len(tokens) - 1
    places = [i for i, token in enumerate(tokens) if token == example[position]]
    nth = list(example[:position]).count(example[position])
    return places[nth] if nth < len(places) else min(position, len(tokens) - 1)
