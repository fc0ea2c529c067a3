"""Latent quantisation: each of a few latents takes one of a small set of values, and decoding is linear in them.

``latent_quantization`` (Hsu et al. 2023, arXiv 2305.18378) learns the values of each latent. The gradient goes straight
through to z; ‖sg z − v‖² moves the values, β‖z − sg v‖² the encoder, and weight decay is unusually high: few values and
little weight make latents line up with what varies independently. ``fsq`` (Mentzer et al. 2023, arXiv 2309.15505)
rounds a bounded z to a fixed grid instead; nothing but the squared error is left to train on.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import digits, register, straight_through
from interp.bottlenecks.learned_slots import LearnedSlots, LearnedSlotsConfig, Parameters, decoded
from interp.bottlenecks.product_codebook import ProductCodebookConfig

COMMITMENT = 0.25
EDGE = 1e-3  # by which the outermost levels of the grid are reached before z is infinite


@dataclass(frozen=True)
class LatentQuantizationConfig(LearnedSlotsConfig):
    """Of a vector ``latents``, each of which takes one of ``levels`` values."""

    latents: int = 12
    levels: Annotated[int, Interval(ge=2, le=256)] = 8
    weight_decay: Annotated[float, Interval(ge=0, lt=10)] = 0.1

    @property
    def radices(self) -> tuple[int, ...]:
        return (self.levels,) * self.latents

    @classmethod
    def at(cls, bits: int, **options: Any) -> ProductCodebookConfig:
        latents, each = digits(bits, most=3)
        return cls(latents=latents, levels=2**each, **options)


@register
class LatentQuantization(LearnedSlots):
    """A learned small set of values for each latent: ``levels``, in the units of z."""

    kind, config_class = "latent_quantization", LatentQuantizationConfig
    source, use = "Hsu et al. 2023", "reading: latents that vary independently"
    levels: Float[Tensor, "group latent level"]

    def __init__(self, config: LatentQuantizationConfig) -> None:
        super().__init__(config)
        self.register_buffer("levels", torch.zeros(config.groups, config.latents, config.levels))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"levels": self.levels}

    def preferences(self, z: Float[Tensor, "group row z"]) -> Float[Tensor, "group row code"]:
        return -(z[..., None] - self.levels[:, None].float()).abs().flatten(-2)

    def begin(self, z: Tensor, rows: Tensor) -> Parameters:
        self.levels.copy_(torch.linspace(-1.5, 1.5, self.config.levels, device=z.device))
        return super().begin(z, rows) | {"levels": self.levels.float().clone()}

    def quantized(self, z: Tensor) -> Tensor:
        return _nearest(z, self.levels.float())

    def grid(self, trained: Parameters) -> Tensor:
        self.levels.copy_(trained["levels"])
        return trained["levels"]

    def reconstructed(self, z: Tensor, trained: Parameters, *_: Any) -> tuple[Tensor, Tensor]:
        near = _nearest(z, trained["levels"])
        extra = (z.detach() - near).square() + COMMITMENT * (z - near.detach()).square()
        return decoded(straight_through(z, near.detach()), trained), extra.mean((1, 2)).sum()

    @torch.no_grad()
    def constrain(self) -> None:
        # the values of a latent lie on one line
        codes = self.codes.unflatten(1, (self.config.latents, self.config.levels)).float()
        mean = codes.mean(2, keepdim=True)
        u, s, v = torch.linalg.svd(codes - mean, full_matrices=False)
        self.codes.copy_((mean + u[..., :1] * s[..., None, :1] * v[..., :1, :]).flatten(1, 2))


def _nearest(z: Float[Tensor, "group row z"], levels: Float[Tensor, "group z level"]) -> Float[Tensor, "group row z"]:
    ids = (z[..., None] - levels[:, None]).abs().argmin(-1)
    return levels[:, None].expand(*z.shape, -1).gather(-1, ids[..., None])[..., 0]


@dataclass(frozen=True)
class FSQConfig(LatentQuantizationConfig):
    weight_decay: Annotated[float, Interval(ge=0, lt=10)] = 0.0


@register
class FSQ(LearnedSlots):
    """A fixed grid of levels for each latent."""

    kind, config_class = "fsq", FSQConfig
    source, use = "Mentzer et al. 2023", "high rates without codes that die"

    def preferences(self, z: Float[Tensor, "group row z"]) -> Float[Tensor, "group row code"]:
        return -(bounded(z, self.config.levels)[..., None] - self._grid(z)).abs().flatten(-2)

    def quantized(self, z: Tensor) -> Tensor:
        return bounded(z, self.config.levels).round()

    def grid(self, trained: Parameters) -> Tensor:
        return self._grid(trained["bias"])

    def reconstructed(self, z: Tensor, trained: Parameters, *_: Any) -> tuple[Tensor, Tensor]:
        inside = bounded(z, self.config.levels)
        return decoded(straight_through(inside, inside.round()), trained), z.new_zeros(())

    @torch.no_grad()
    def constrain(self) -> None:
        # the values of a latent lie on one line, evenly
        codes = self.codes.unflatten(1, (self.config.latents, self.config.levels)).float()
        mean, grid = codes.mean(2, keepdim=True), self._grid(codes)
        grid = (grid - grid.mean())[:, None]
        step = (grid * (codes - mean)).sum(2, keepdim=True) / grid.square().sum()
        self.codes.copy_((mean + grid * step).flatten(1, 2))

    def _grid(self, like: Tensor) -> Float[Tensor, " level"]:
        levels = self.config.levels
        return torch.arange(levels, device=like.device, dtype=like.dtype) - levels // 2


def bounded(z: Tensor, levels: int) -> Tensor:
    """z as a number that rounds to one of −⌊L/2⌋ … ⌈L/2⌉ − 1, as the paper bounds it."""
    half = (levels - 1) * (1 + EDGE) / 2
    offset = 0.0 if levels % 2 else 0.5
    return (z + math.atanh(offset / half)).tanh() * half - offset
