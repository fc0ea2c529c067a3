"""Setting the code of a slot on a prompt of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.kinds.codebook import Codebook
from interp.interventions.patch import Patch, patched_logits
from interp.models import Model
from interp.programs.codes import vectors_of
from interp.programs.slots import HeadAtRole


@dataclass(frozen=True)
class CodeAt:
    """One code that is to stand at a slot, whose role stands at a position of the prompt; ``book`` is the slot's."""

    slot: HeadAtRole
    position: int
    book: Codebook
    code: int


@torch.no_grad()
def set_code(
    model: Model, tokens: Sequence[int], at: CodeAt
) -> tuple[int, Float[Tensor, " d_vocab"], Float[Tensor, " d_vocab"]]:
    """Set z to z + c(code) − c(own) at a slot of a prompt. Returns the slot's own code, and the logits of the next
    token before and after."""
    head = slice(None) if at.slot.site.head is None else at.slot.site.head
    read: list[Tensor] = []
    readers = {at.slot.site.hook: [lambda x: read.append(x[0, at.position][head][None].float().cpu())]}
    before = patched_logits(model, tokens, [], readers)
    own = int(at.book.encode(read[0]).ids)
    new, old = vectors_of(at.book, np.array([at.code, own]))
    patch = Patch(at.slot.site, (new - old)[None], np.array([at.position]), add=True)
    return own, before, patched_logits(model, tokens, [patch])


def same_place(tokens: Sequence[int], example: Sequence[int], position: int) -> int:
    """Where a prompt has what stands at a position of another one: the last token for the last one, else the same
    token, counted from the left, else the same position."""
    if position == len(example) - 1:
        return len(tokens) - 1
    places = [i for i, token in enumerate(tokens) if token == example[position]]
    nth = list(example[:position]).count(example[position])
    return places[nth] if nth < len(places) else min(position, len(tokens) - 1)
