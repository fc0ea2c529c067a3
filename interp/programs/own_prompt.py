"""Setting the codes of slots on a prompt of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Codes
from interp.bottlenecks.kinds.codebook import Codebook
from interp.interventions.patch import Patch, Reader, patched_logits
from interp.models import Model
from interp.programs.slots import HeadAtRole


@dataclass(frozen=True)
class CodeAt:
    """One code that is to stand at a slot, whose role stands at a position of the prompt; ``book`` is the slot's."""

    slot: HeadAtRole
    position: int
    book: Codebook
    code: int


@torch.no_grad()
def set_codes(
    model: Model, tokens: Sequence[int], codes: Sequence[CodeAt]
) -> tuple[list[int], Float[Tensor, " d_vocab"], Float[Tensor, " d_vocab"]]:
    """Set z to z + c(code) − c(own) at slots of a prompt.

    Returns:
        The slots' own codes, and the logits of the next token before and after.
    """
    own_codes: dict[int, int] = {}
    readers: dict[str, list[Reader]] = {}
    for number, at in enumerate(codes):
        head = slice(None) if at.slot.site.head is None else at.slot.site.head

        def read(x: Tensor, number: int = number, at: CodeAt = at, head: int | slice = head) -> None:
            own_codes[number] = int(at.book.encode(x[0, at.position][head][None].float().cpu()).ids)

        readers.setdefault(at.slot.site.hook, []).append(read)
    before = patched_logits(model, tokens, [], readers)
    patches = []
    for number, at in enumerate(codes):
        new, old = at.book.decode(Codes(torch.tensor([[at.code], [own_codes[number]]]), torch.ones(2, 1)))
        patches.append(Patch(at.slot.site, (new - old)[None], np.array([at.position]), add=True))
    return [own_codes[number] for number in range(len(codes))], before, patched_logits(model, tokens, patches)


def same_place(tokens: Sequence[int], example: Sequence[int], position: int) -> int:
    """Where a prompt has what stands at a position of another one: the last token for the last one, else the same
    token, counted from the left, else the same position."""
    if position == len(example) - 1:
        return len(tokens) - 1
    places = [i for i, token in enumerate(tokens) if token == example[position]]
    nth = list(example[:position]).count(example[position])
    return places[nth] if nth < len(places) else min(position, len(tokens) - 1)
