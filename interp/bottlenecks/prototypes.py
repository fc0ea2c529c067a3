"""Codes that are activations which have occurred, each with the example that it came from.

Li et al. 2018 (arXiv 1710.04806) learn prototypes so that each lies near some example and each example near some
prototype. Here k-means sees to the second, and each centre is moved onto the nearest vector that no other has, which
makes the first exact: the vector of a code can be looked up in the text. Their autoencoder is the identity, or W_O.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from interp.bottlenecks.base import Vectors, grouped_rows, register
from interp.bottlenecks.product_codebook import ProductCodebook
from interp.bottlenecks.vq import VQ, FlatConfig


@register
class Prototypes(VQ):
    """The nearest of a set of vectors that have occurred.

    Attributes:
        examples: of every code, the number of its vector among those of :meth:`fit`: of blocks of text, block · length
            + position.
    """

    kind, config_class, trains = "prototypes", FlatConfig, False
    source, use = "Li et al. 2018", "showing where a code comes from"
    partial_fit = None  # type: ignore[assignment]  # all vectors at once
    examples: Int[Tensor, "group code"]

    def __init__(self, config: FlatConfig) -> None:
        super().__init__(config)
        self.codes.requires_grad_(False)
        self.register_buffer("examples", torch.zeros(config.groups, config.codes, dtype=torch.int64))

    def fit(self, x: Vectors) -> "ProductCodebook":
        super().fit(x)
        rows = grouped_rows(x, self.config)
        index = self.examples[..., None].expand(-1, -1, rows.shape[-1])
        self.codes.data.copy_(rows.gather(1, index))  # bit for bit
        return self

    def learn(self, rows: Tensor) -> Tensor:
        centres = super().learn(rows)
        for group, (own, book) in enumerate(zip(rows, centres, strict=True)):
            free = own.new_zeros(len(own))
            for code, centre in enumerate(book):
                row = ((own - centre).square().sum(-1) + free).argmin()
                self.examples[group, code], free[row] = row, torch.inf
        return rows.gather(1, self.examples[..., None].expand_as(centres))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"examples": self.examples}
