"""Hard-concrete masks: random numbers in [0, 1] that are exactly 0 or 1 with some probability, yet have a gradient.

Louizos, Welling & Kingma 2018 (arXiv 1712.01312). u uniform, s = σ((logit(u) + log α) / β), stretched to [γ, ζ] and
clamped to [0, 1].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
_NODES = 200


def sample(
    log_alpha: Float[Tensor, "*any"], generator: torch.Generator, eps: float = 1e-6
) -> Float[Tensor, "*any"]:
    """One draw of every mask, differentiable in ``log_alpha``."""
    u = torch.rand(log_alpha.shape, generator=generator).to(log_alpha).clamp(eps, 1 - eps)
    return _stretch(torch.sigmoid((u.logit() + log_alpha) / BETA))


def open_probability(log_alpha: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """P(mask > 0) = σ(log α − β log(−γ/ζ)): what the sparsity penalty counts."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def mean(log_alpha: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """E[mask] = ∫₀¹ P(mask > t) dt with P(mask > t) = σ(log α − β logit((t − γ)/(ζ − γ))), by the midpoint rule.

    Strictly rising in ``log_alpha``: unlike the clamped estimate that is usual at test time it has no ties at 0 and 1.
    """
    t = (torch.arange(_NODES).to(log_alpha) + 0.5) / _NODES
    cut = ((t - GAMMA) / (ZETA - GAMMA)).logit()
    return torch.sigmoid(log_alpha[..., None] - BETA * cut).mean(-1)


def log_alpha_of(probability: float) -> float:
    """The log α whose mask is open with this probability."""
    return math.log(probability / (1 - probability)) + BETA * math.log(-GAMMA / ZETA)


def _stretch(s: Tensor) -> Tensor:
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
