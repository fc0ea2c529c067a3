"""Codes of −1, 0 and 1 times a scale: log2 3 bits a coordinate instead of 32.

As BitNet b1.58 quantises weights, and its reloaded form (Nielsen & Schneider-Kamp 2024, arXiv 2407.09527) with the
median for the mean: γ = mean |w| or median |w| of a code, and w becomes γ · clip(round(w / γ), −1, 1). Gradients act on
the unrounded w, straight through.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import register
from interp.bottlenecks.kinds.vq import ResidualVQ, VQConfig
from interp.bottlenecks.kmeans import GroupedKMeans

ROUNDS = 10


@dataclass(frozen=True)
class TernaryConfig(VQConfig):
    """``scale`` is the ``mean`` or ``median`` size of a code's coordinates."""

    scale: Literal["mean", "median"] = "mean"


@register
class Ternary(ResidualVQ):
    """Codes of few bits themselves, one after another."""

    kind, config_class = "ternary", TernaryConfig
    source, use = "Nielsen & Schneider-Kamp 2024", "small dictionaries"
    partial_fit = None  # type: ignore[assignment]  # all vectors at once

    def learn(self, rows: Tensor) -> Tensor:
        self._exact: list[Tensor] = []
        codes = self.stages(rows)
        self.unrounded = torch.cat(self._exact, 1)
        return codes

    def stage(self, rows: Tensor, slot: int) -> GroupedKMeans:
        """k-means, each centre made ternary before vectors choose again."""
        metric, kmeans = self.metric.float(), super().stage(rows, slot)
        exact = torch.linalg.solve(metric, kmeans.centres_, left=False)
        for _ in range(ROUNDS):
            kmeans.centres_ = ternary(exact, self.config.scale) @ metric
            ids = kmeans.predict(rows)[..., None]
            count = torch.zeros_like(exact[..., :1]).scatter_add_(1, ids, torch.ones_like(rows[..., :1]))
            total = torch.zeros_like(exact).scatter_add_(1, ids.expand_as(rows), rows)
            mean = torch.linalg.solve(metric, total / count.clamp(min=1), left=False)
            exact = torch.where(count > 0, mean, exact)
        kmeans.centres_ = ternary(exact, self.config.scale) @ metric
        self._exact.append(exact)
        return kmeans

    @torch.no_grad()
    def set_comparable_codes(self, codes: Tensor) -> None:
        super().set_comparable_codes(codes)
        if self.unrounded is not None:  # as they were before the map and back
            self.codes.copy_(ternary(self.unrounded, self.config.scale))

    @classmethod
    def restored(cls, config: Any, tensors: Mapping[str, Tensor]) -> "Ternary":
        book = super().restored(config, tensors)
        codes = book.codes.detach()
        # the smallest weights that round to these codes
        book.unrounded = codes * (codes.abs().amax(-1, keepdim=True) / _scale(codes, config.scale))
        return book

    @torch.no_grad()
    def constrain(self) -> None:
        assert self.unrounded is not None
        exact = self.unrounded.to(self.codes)
        self.unrounded = exact + (self.codes - ternary(exact, self.config.scale))
        self.codes.copy_(ternary(self.unrounded, self.config.scale))


def ternary(weights: Float[Tensor, "*batch d"], scale: Literal["mean", "median"] = "mean") -> Float[Tensor, "*batch d"]:
    """γ · clip(round(w / γ), −1, 1) along the last axis."""
    gamma = _scale(weights, scale)
    return gamma * (weights / gamma).round().clamp(-1, 1)


def _scale(weights: Tensor, scale: str) -> Tensor:
    size = weights.abs()
    gamma = size.mean(-1, keepdim=True) if scale == "mean" else size.median(-1, keepdim=True).values
    return gamma.clamp(min=1e-12)
