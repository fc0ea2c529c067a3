"""Adam whose steps are measured by what the codes stand for.

Adam moves every coordinate by about the learning rate, whatever the gradient's size. Activations of one model differ by
two orders of magnitude in spread from layer to layer and several-fold between the heads of a layer: no one step in
absolute units suits them. Nor does the codes' own length: where a head's vectors lie close together far from zero, a
hundredth of their length is more than all that tells them apart.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class RelativeAdam(torch.optim.Adam):
    """Adam on codes [group, code, d_in], each group's steps in units of its own.

    β₂ = 0.99: a code is in few batches, and with the usual 0.999 one gradient after a long silence would move it by
    tens of steps.
    """

    def __init__(self, codes: list[Tensor], lr: float) -> None:
        super().__init__(codes, lr=lr, betas=(0.9, 0.99))

    @torch.no_grad()
    def step_in(self, units: Sequence[Tensor]) -> None:
        """A step, that of the i-th codes multiplied by the i-th units, [group]; books differ in their groups."""
        codes = self.param_groups[0]["params"]
        before = [p.clone() for p in codes]
        self.step()
        for p, old, unit in zip(codes, before, units, strict=True):
            p.sub_(old).mul_(unit[:, None, None]).add_(old)
