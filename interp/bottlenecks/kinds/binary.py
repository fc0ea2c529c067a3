"""Bits: a vector is a sum of directions, each on or off.

* ``binary`` (Wang et al. 2023, *Binary Latent Diffusion*, arXiv 2304.04820): y = σ(z), a bit is drawn with chance y in
  training and y > ½ afterwards; the gradient goes straight through to y. On adds a vector, off nothing.
* ``lfq`` (Yu et al. 2023, arXiv 2310.05737): the sign of z; each bit should be certain of a vector and even over all.
* ``bsq`` (Zhao et al. 2024, arXiv 2406.07548): the same with z on the sphere, so that what a bit means is bounded.

The entropy of ``lfq`` and ``bsq`` is taken bit by bit, as ``bsq`` does: that over all 2^bits codes is out of reach.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import digits, register, straight_through
from interp.bottlenecks.learned_slots import LearnedSlots, LearnedSlotsConfig, Parameters, decoded
from interp.bottlenecks.product_codebook import ProductCodebookConfig

ENTROPY, COMMITMENT = 0.02, 0.1
SHARPNESS = 4.0  # of the chance σ(sharpness · z) by which the entropy of a sign is taken


@dataclass(frozen=True)
class BinaryConfig(LearnedSlotsConfig):
    n_bits: int = 36

    @property
    def radices(self) -> tuple[int, ...]:
        return (2,) * self.n_bits

    @classmethod
    def at(cls, bits: int, **options: Any) -> ProductCodebookConfig:
        return cls(n_bits=digits(bits, most=1)[0], **options)


@register
class Binary(LearnedSlots):
    """Bits that are drawn while they are learned."""

    kind, config_class = "binary", BinaryConfig
    source, use = "Wang et al. 2023", "flipping one property at a time"

    def preferences(self, z: Float[Tensor, "group row z"]) -> Float[Tensor, "group row code"]:
        return torch.stack([-z, z], -1).flatten(-2)

    def quantized(self, z: Tensor) -> Tensor:
        return (z > 0).to(z)

    def grid(self, trained: Parameters) -> Tensor:
        return self.quantized(torch.tensor([-1.0, 1.0], device=trained["bias"].device))

    def reconstructed(
        self, z: Tensor, trained: Parameters, _done: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        chance = z.sigmoid()
        bits = (torch.rand(z.shape, generator=generator).to(z.device) < chance).to(z)
        return decoded(straight_through(chance, bits), trained), z.new_zeros(())


@register
class LFQ(Binary):
    """The sign of each latent."""

    kind = "lfq"
    source, use = "Yu et al. 2023", "bits that are certain and even"

    def quantized(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, 1.0, -1.0).to(z)

    def latents(self, z: Tensor) -> Tensor:
        """z as its sign is taken and learned."""
        return z

    def reconstructed(self, z: Tensor, trained: Parameters, *_: Any) -> tuple[Tensor, Tensor]:
        z = self.latents(z)
        signs = self.quantized(z)
        logit = SHARPNESS * z
        chance = logit.sigmoid()
        # nats of a bit, given the vector
        certain = (torch.nn.functional.softplus(logit) - logit * chance).mean(1)
        mean = chance.mean(1).clamp(1e-6, 1 - 1e-6)
        entropy = certain - torch.special.entr(mean) - torch.special.entr(1 - mean)
        extra = ENTROPY * entropy.mean(-1) + COMMITMENT * (z - signs).square().mean((1, 2))
        return decoded(straight_through(z, signs), trained), extra.sum()


@register
class BSQ(LFQ):
    """The sign of each latent of a vector on the sphere."""

    kind = "bsq"
    source, use = "Zhao et al. 2024", "bits of bounded meaning"

    def latents(self, z: Tensor) -> Tensor:
        # times √bits, so that a sign is 1 as in lfq: the decoder takes the factor up
        return torch.nn.functional.normalize(z, dim=-1) * z.shape[-1] ** 0.5
