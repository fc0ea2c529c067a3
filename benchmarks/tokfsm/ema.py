"""Codes that follow the running means of the vectors that have them (van den Oord et al. 2017, arXiv 1711.00937, A.1).

An optimizer moves every code by about its learning rate, however long the vectors are and however far they have gone
meanwhile; a running mean is as far behind them as its memory is long, at any scale. Codes that follow by it take no
gradient, so they learn what is *there* and nothing of the loss: the model must be pulled to its codes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.bottlenecks.codebook import Codebook

PRIOR = 1.0
"""Vectors that a code's place counts as: one that was seen once goes half of the way."""


class ExponentialMovingAverage(nn.Module):
    """The running means of one codebook with one code a vector; its state is all that a resumed run needs.

    Attributes:
        mass: vectors of each code, those of earlier steps with the weight that they still have.
        total: their sum.
    """

    def __init__(self, book: Codebook, memory: float) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("mass", torch.zeros(book.codes.shape[:2]))
        self.register_buffer("total", torch.zeros(book.codes.shape))

    @torch.no_grad()
    def follow(self, book: Codebook, x: Float[Tensor, "*vector d_in"], ids: Int[Tensor, "*vector"]) -> None:
        """Move the codes that occur to the mean of their vectors; the others stay.

        Args:
            ids: the code of every vector (of every group of it), as ``book`` gave them.
        """
        rows = book.rows(x)
        index = ids.reshape(-1, len(rows)).T.long()
        found = torch.zeros_like(self.mass).scatter_add_(1, index, torch.ones_like(index, dtype=rows.dtype))
        self.mass.mul_(self.memory).add_(found)
        self.total.mul_(self.memory).scatter_add_(1, index[..., None].expand_as(rows), rows)
        mean = (self.total + PRIOR * book.codes) / (self.mass + PRIOR)[..., None]
        book.codes.copy_(torch.where((found > 0)[..., None], mean, book.codes))
