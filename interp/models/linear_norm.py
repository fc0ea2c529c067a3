"""A norm with its scale frozen is linear: what it does to a part of its input.

LayerNorm and RMSNorm are y = gain · (x − mean(x) if centred) / scale(x) + bias. Families differ in gain (Gemma adds 1),
bias and centring, so these are measured by probing the module rather than read from attribute names.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class LinearNorm:
    """y = gain · (x − mean(x) if centred) / scale(x) + bias; ``scaled`` is false where there is no norm."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    scaled: bool

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module, d_model: int, like: Tensor) -> "LinearNorm":
        """Probe a norm module; ``like`` gives device and dtype."""
        # mean 0 and root-mean-square 1 (odd widths: nearly), so that the norm leaves it as it is
        probe = torch.ones(d_model, device=like.device, dtype=like.dtype)
        probe[1::2] = -1.0

        def norm(x: Tensor) -> Tensor:
            return module(x[None, None]).squeeze(0).squeeze(0).float()

        def same(x: Tensor, y: Tensor) -> bool:
            return torch.allclose(x, y, atol=0.01 * y.abs().max().item())

        bias = norm(torch.zeros_like(probe))
        plain = norm(probe) - bias
        centred = same(norm(probe + 3.0) - bias, plain)
        scaled = same(norm(2.0 * probe) - bias, plain)
        return cls(plain * probe.float(), bias, centred, scaled)

    def direction(self, part: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """gain · (part − mean(part) if centred): the norm's numerator, linear in the part."""
        return (part - part.mean(-1, keepdim=True) if self.centred else part) * self.gain

    def factor(
        self, inputs: Float[Tensor, "*any d_model"], outputs: Float[Tensor, "*any d_model"]
    ) -> Float[Tensor, "*any 1"]:
        """1 / scale at each position, read off the norm's own input and output, so that its epsilon is included."""
        whole = self.direction(inputs)
        power = whole.pow(2).sum(-1, keepdim=True).clamp_min(torch.finfo(whole.dtype).tiny)
        return ((outputs - self.bias) * whole).sum(-1, keepdim=True) / power
