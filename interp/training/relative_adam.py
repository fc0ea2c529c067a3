"""Adam for codes: a step only when a code is used, measured by what the codes stand for.

*Units.* Adam moves every coordinate by about the learning rate, whatever the gradient's size. Activations of one model
differ by two orders of magnitude in spread from layer to layer and several-fold between the heads of a layer: no one
step in absolute units suits them. Nor does the codes' own length: where a head's vectors lie close together far from
zero, a hundredth of their length is more than all that tells them apart.

*Use.* A code is in few batches, and there often for a single token. Plain Adam goes on moving it for ten steps by that
one gradient, and forgets the size of earlier ones meanwhile, so that the next token moves it by as much again: codes
walk at random, by several tenths of the spread. Here moments are over the steps in which a code was used, as in "lazy"
Adam for sparse embeddings: it moves when it is used, by the mean gradient of its last uses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.99)
"""Of the mean gradient and the mean square, over uses of a code."""
EPSILON = 1e-8


class RelativeAdam(torch.optim.Optimizer):
    """On codes [group, code, d_in], each group's steps in units of its own."""

    def __init__(self, codes: list[Tensor], lr: float) -> None:
        super().__init__(codes, {"lr": lr})
        for p in codes:
            uses = p.new_zeros(p.shape[:2], dtype=torch.float32)
            self.state[p] = {
                "step": uses,
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    @torch.no_grad()
    def step_in(self, units: Sequence[Tensor]) -> None:
        """A step of the codes that have a gradient; of the i-th codes in the i-th units, [group]."""
        (given,) = self.param_groups
        for codes, unit in zip(given["params"], units, strict=True):
            if codes.grad is None:
                continue
            state = self.state[codes]
            group, code = codes.grad.any(-1).nonzero(as_tuple=True)
            gradient = codes.grad[group, code]
            state["step"][group, code] += 1
            used = state["step"][group, code, None]
            moments = []
            for name, new, beta in zip(
                ("exp_avg", "exp_avg_sq"), (gradient, gradient.square()), BETAS, strict=True
            ):
                moment = state[name][group, code].lerp(new, 1 - beta)
                state[name][group, code] = moment
                moments.append(moment / (1 - beta**used))  # as if there had been no zeros at first
            mean, square = moments
            step = given["lr"] * unit[group, None] * mean / (square.sqrt() + EPSILON)
            codes[group, code] -= step.to(codes.dtype)
