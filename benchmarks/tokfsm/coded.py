"""A model whose heads and MLPs speak in codes: where codebooks stand, how they are run, fitted and kept alive."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.tokfsm.neox import NeoX, NeoXShape
from interp.bottlenecks import Codebook, CodebookConfig
from interp.bottlenecks.base import Codes, straight_through

Ids = dict[str, Int[Tensor, "batch pos *group"]]
"""The code at every position by site; ``a2`` has one a head, ``m2`` one."""
Edit = Callable[[str, Tensor], Tensor]
"""Takes a site and its ids, returns the ids that take their place."""


PRIOR = 1.0
"""Vectors that a code's place counts as: one that was seen once goes half of the way."""


class ExponentialMovingAverage(nn.Module):
    """The running means of one codebook with one code a vector (van den Oord et al. 2017, arXiv 1711.00937, A.1).

    An optimizer moves every code by about its learning rate, however long the vectors are. A running mean is as far
    behind them as its memory is long, at any scale. Its state is all that a resumed run needs.

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
        counts = torch.zeros_like(self.mass).scatter_add_(1, index, torch.ones_like(index, dtype=rows.dtype))
        self.mass.mul_(self.memory).add_(counts)
        self.total.mul_(self.memory).scatter_add_(1, index[..., None].expand_as(rows), rows)
        mean = (self.total + PRIOR * book.codes) / (self.mass + PRIOR)[..., None]
        book.codes.copy_(torch.where((counts > 0)[..., None], mean, book.codes))


class Books(nn.ModuleDict):
    """One codebook at z of each layer's heads (a book a head) and one at each MLP's output; the code of a vector is the
    nearest. Codes take no gradient: running means of what they stand for move them."""

    def __init__(self, shape: NeoXShape, n_codes: int, seed: int = 0) -> None:
        super().__init__()
        for number, site in enumerate(shape.sites):
            heads = site.startswith("a")
            self[site] = Codebook(
                CodebookConfig(
                    d_in=shape.d_head if heads else shape.d_model,
                    groups=shape.n_heads if heads else 1,
                    n_codes=n_codes,
                    selection="matching_pursuit",  # of one code: the nearest
                    seed=seed * len(shape.sites) + number,
                )
            )
        self.requires_grad_(False)

    def running_means(self, memory: float) -> nn.ModuleDict:
        """Of what each code stands for, by site."""
        return nn.ModuleDict({site: ExponentialMovingAverage(book, memory) for site, book in self.items()})

    def run(self, edit: Edit | None = None) -> "Running":
        return Running(self, edit)

    @torch.no_grad()
    def fit(self, model: NeoX, tokens: Int[Tensor, "batch pos"]) -> None:
        """k-means, site after site in one pass: each sees what reaches it through the books before it."""

        def fitted(site: str, x: Tensor) -> Tensor:
            self[site].fit(x)
            return self[site](x)

        model(tokens, fitted)


class Running:
    """Books at work in one forward pass; give it to the model as ``at``.

    Attributes:
        ids: the codes as decoded, that is after the edit.
        x: what the books replaced.
        commitment: what the codes leave unexplained at each site, whose gradient pulls activations to their codes. A
            share: squared distances grow with the activations, which by 20 M tokens are 260 long at the last MLP, and
            their pull had drowned the language model's gradient a thousandfold.
    """

    def __init__(self, books: Books, edit: Edit | None = None) -> None:
        self.books, self.edit = books, edit
        self.ids: Ids = {}
        self.x: dict[str, Tensor] = {}
        self.commitment: list[Tensor] = []

    def __call__(self, site: str, x: Tensor) -> Tensor:
        book = self.books[site]
        ids = book.encode(x).ids[..., 0]
        if self.edit is not None:
            ids = self.edit(site, ids)
        decoded = book.decode(as_codes(ids))
        self.ids[site] = ids
        if torch.is_grad_enabled():
            self.x[site] = x.detach()
            self.commitment.append(unexplained(x, decoded))
        return straight_through(x, decoded)


def as_codes(ids: Int[Tensor, "*batch"]) -> Codes:
    return Codes(ids[..., None], torch.ones(*ids.shape, 1, device=ids.device))


def unexplained(
    x: Float[Tensor, "batch pos *book d_in"], decoded: Float[Tensor, "batch pos *book d_in"]
) -> Float[Tensor, ""]:
    """|x − x̂|² / |x − mean|², of heads each about its own mean; the spread is held constant for the gradient."""
    rows = x.detach().flatten(0, 1)
    return (x - decoded).square().sum() / (rows - rows.mean(0)).square().sum()
