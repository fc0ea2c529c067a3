"""Per-head outputs reduced over positions: what codes are read from.

W_O is linear, so the head's d_model-sized result averaged over positions is the averaged z times W_O: we keep z
(d_head numbers) and multiply when a code is wanted. 500 prompts × 270 heads × 64 numbers are 35 MB.
"""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import Consumer, PairBatch
from interp.errors import InputError, check_choice
from interp.models import Model
from interp.prompts.pairs import PromptPair, PromptPairs

Positions = Literal["mean", "last", "roles"]


def role_positions(pairs: PromptPairs) -> Positions:
    """``roles``, or ``last`` where no role is named by all pairs."""
    return "roles" if shared_roles(pairs) else "last"


def shared_roles(pairs: Sequence[PromptPair]) -> tuple[str, ...]:
    """Roles that all pairs name."""
    return tuple(role for role in pairs[0].positions if all(role in pair.positions for pair in pairs))


def distinct_roles(pairs: Sequence[PromptPair]) -> tuple[str, ...]:
    """Roles that all pairs name, without those that stand where an earlier one does in every pair."""
    shared = shared_roles(pairs)
    positions = [tuple(pair.positions[role] for pair in pairs) for role in shared]
    return tuple(role for i, role in enumerate(shared) if positions[i] not in positions[:i])


class HeadMeans(Consumer):
    """A consumer that reduces each head's z over positions, for both sides of every pair.

    Args:
        positions: ``mean`` over all positions (O'Neill & Bui 2024), ``last`` (END only), or ``roles``: one vector at
            each of the task's role positions.
        first: position from which ``mean`` is taken.

    Attributes:
        z_: after feeding, [side, pair, slot, layer, head, d_head]; side 0 is clean, 1 corrupt; one slot unless
            ``positions="roles"``.
        roles_: the role of each slot.
    """

    def __init__(self, pairs: PromptPairs, positions: Positions = "mean", *, first: int = 0) -> None:
        check_choice("positions ", Positions, positions)
        if positions == "roles" and not all(pair.positions for pair in pairs):
            raise InputError("positions 'roles': this task's pairs name no roles; choose mean or last")
        self.positions, self.first, self.n_pairs = positions, first, len(pairs)
        self.roles_: tuple[str, ...] = shared_roles(pairs) if positions == "roles" else (positions,)
        if not self.roles_:
            raise InputError("positions 'roles': no role is named by all pairs; choose mean or last")
        self.z_: Float[Tensor, "side pair slot layer head d_head"]

    def update(self, batch: PairBatch) -> None:
        for side, activations in enumerate((batch.clean, batch.corrupt)):
            reduced = self.reduce(activations.z, batch)
            if not hasattr(self, "z_"):
                self.z_ = torch.zeros(2, self.n_pairs, *reduced.shape[1:])
            self.z_[side, list(batch.indices)] = reduced

    def subset(self, indices: Sequence[int]) -> "HeadMeans":
        """The same means for some of the pairs, in this order."""
        part = copy.copy(self)
        part.z_ = self.z_[:, list(indices)]
        part.n_pairs = len(indices)
        return part

    def reduce(
        self, per_layer: Sequence[Float[Tensor, "batch pos head d_head"]], batch: PairBatch
    ) -> Float[Tensor, "batch slot layer head d_head"]:
        """Reduce one tensor a layer, outputs or their gradients, over positions."""
        if self.positions == "mean":
            reduced = [z[:, self.first :].mean(1, keepdim=True) for z in per_layer]
        elif self.positions == "last":
            reduced = [z[:, -1:] for z in per_layer]
        else:
            index = torch.tensor([[p.positions[role] for role in self.roles_] for p in batch.pairs])
            rows = torch.arange(len(batch.pairs))[:, None]
            reduced = [z[rows, index] for z in per_layer]
        return torch.stack(reduced, dim=2).float().cpu()  # [batch, slot, layer, head, d_head]


def output_weights(model: Model) -> Float[Tensor, "layer head d_head d_model"]:
    """W_O of every head, so that ``z @ W_O`` is what the head adds to the residual stream (bias apart)."""
    return torch.stack([block.attn.W_O.detach().float().cpu() for block in model.blocks])
