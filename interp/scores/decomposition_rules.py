"""How a part β of an activation passes through one operation; the rest, γ = whole − β, passes with it.

Contextual decomposition (Murdoch et al. 2018; Singh et al. 2019; for transformers Hsu et al. 2024, arXiv 2407.00886).
Every rule is given β and the whole, and returns the β of the result, so that β + γ is the whole by construction.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.linear_norm import LinearNorm


def share_bias(
    part: Float[Tensor, "*#any d"], whole: Float[Tensor, "*#any d"], bias: Float[Tensor, "*#any d"] | None
) -> Float[Tensor, "*#any d"]:
    """Linear map: β' = Wβ + b |Wβ| / (|Wβ| + |Wγ|), elementwise; ``part`` is Wβ, ``whole`` is W(β + γ) + b."""
    if bias is None or not bias.any():
        return part
    size = part.abs()
    rest = (whole - bias - part).abs()
    return part + bias * size / (size + rest).clamp_min(torch.finfo(part.dtype).tiny)


def norm(
    part: Float[Tensor, "*#any d"],
    whole_in: Float[Tensor, "*#any d"],
    whole_out: Float[Tensor, "*#any d"],
    linear: LinearNorm,
) -> Float[Tensor, "*#any d"]:
    """LayerNorm and RMSNorm: linear, with the scale of the whole input; the bias is shared as in :func:`share_bias`."""
    moved = linear.direction(part) * linear.factor(whole_in, whole_out)
    shared = share_bias(moved, whole_out, linear.bias) if linear.scaled else moved
    return shared.to(part.dtype)  # the norm was measured in float32


def activation(
    part: Float[Tensor, "*#any"], whole: Float[Tensor, "*#any"], function: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*#any"]:
    """Nonlinearity: β' = f(β + γ) − f(γ)."""
    return function(whole) - function(whole - part)


def product(
    part_a: Float[Tensor, "*#a"],
    whole_a: Float[Tensor, "*#a"],
    part_b: Float[Tensor, "*#b"],
    whole_b: Float[Tensor, "*#b"],
    times: Callable[[Tensor, Tensor], Tensor] = torch.mul,
) -> Float[Tensor, "*product"]:
    """A bilinear product, its cross terms halved between β and γ: β' = β_a β_b + ½ (β_a γ_b + γ_a β_b)."""
    return (times(part_a, whole_b) + times(whole_a, part_b)) / 2


def softmax(
    part: Float[Tensor, "*#any key"], whole: Float[Tensor, "*#any key"]
) -> Float[Tensor, "*#any key"]:
    """The last dimension's softmax as a game of two players: β' is the mean of what β adds to γ and what it adds to 0.

    Masked keys are −inf in ``whole``; the players start from even attention to the others. The literal
    softmax(β) would give a part that is absent (β = 0) that even attention.
    """
    masked = whole.isinf()
    alone = part.masked_fill(masked, float("-inf"))
    nothing = torch.zeros_like(whole).masked_fill(masked, float("-inf"))
    without = whole - part
    return (whole.softmax(-1) - without.softmax(-1) + alone.softmax(-1) - nothing.softmax(-1)) / 2
