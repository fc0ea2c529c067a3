"""Categorical codes of a discrete variational autoencoder.

Ramesh et al. 2021 (arXiv 2102.12092): logits over the codes, a Gumbel-softmax whose temperature falls from 1 to 1/16 in
training, a KL to the uniform prior whose weight warms up, and the hard argmax afterwards. With several slots each has
logits and codes of its own.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import register
from interp.bottlenecks.kinds.vq import VQConfig, product_codes
from interp.bottlenecks.learned_slots import LearnedSlots, LearnedSlotsConfig, Parameters

HOTTEST, COLDEST = 1.0, 1 / 16


@dataclass(frozen=True)
class GumbelConfig(LearnedSlotsConfig, VQConfig):
    """``kl_weight`` is of the KL to the uniform prior, at the end."""

    kl_weight: Annotated[float, Interval(ge=0, lt=100)] = 1e-3
    steps: Annotated[int, Ge(1)] = 300
    lr: Annotated[float, Interval(gt=0, lt=1)] = 3e-4  # it begins near a good place, and larger steps leave it

    @property
    def width(self) -> int:
        return self.n_codes


@register
class Gumbel(LearnedSlots):
    """One of a set of categories, drawn while they are learned."""

    kind, config_class = "gumbel", GumbelConfig
    source, use = "Ramesh et al. 2021", "codes with probabilities"

    def directions(self, rows: Tensor, *_: Any) -> Float[Tensor, "group d_in z"]:
        # logits of a mixture of normals about the codes of the vectors' parts (interp.bottlenecks.kinds.vq)
        self._begun = product_codes(rows, self.config.slots, self.config.codes, self.config.seed)
        parts = self._begun.split(self.config.radices, 1)
        variance = torch.stack([_spread(rows, part, self.config.slots) for part in parts], 1)
        self._width = variance.repeat_interleave(self.config.codes, 1)
        return (self._begun / self._width[..., None]).mT

    def begin(self, _z: Tensor, rows: Tensor) -> Parameters:
        offset = self._begun.square().sum(-1) / (-2 * self._width)
        bias = rows.new_zeros(*rows.shape[::2])
        return {"encoder_bias": offset[:, None], "codes": self._begun, "bias": bias}

    def reconstructed(
        self, z: Tensor, trained: Parameters, done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        logits = z.unflatten(-1, (self.config.slots, self.config.codes))
        noise = torch.empty(logits.shape).exponential_(generator=generator).log().to(logits.device)
        drawn = soft_choice(logits - noise, HOTTEST * (COLDEST / HOTTEST) ** done)
        log_q = logits.log_softmax(-1)
        kl = (log_q.exp() * (log_q + math.log(self.config.codes))).sum(-1).mean((1, 2)).sum()
        reconstruction = drawn.flatten(-2) @ trained["codes"] + trained["bias"][:, None]
        return reconstruction, self.config.kl_weight * done * kl

    def book(self, trained: Parameters) -> Tensor:
        return trained["codes"]


def soft_choice(logits: Tensor, temperature: float) -> Tensor:
    """Weights of the codes of each slot: all on the best as the temperature goes to 0."""
    return (logits / temperature).softmax(-1)


def _spread(rows: Tensor, codes: Tensor, slots: int) -> Float[Tensor, " group"]:
    """Mean squared distance to the nearest code per coordinate of its part."""
    gain = torch.baddbmm(codes.square().sum(-1)[:, None] / -2, rows, codes.mT).amax(-1)
    # of the part alone: what lies outside it is in the rows' squares, and no part of the distance
    axes = torch.linalg.qr((codes - codes.mean(1, keepdim=True)).mT).Q
    inside = (rows @ axes).square().sum(-1)
    width = max(1, rows.shape[-1] // slots)
    return ((inside - 2 * gain).clamp(min=0).mean(-1) / width).clamp(min=1e-3)
