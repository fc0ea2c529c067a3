"""The last thing that is done to distilled codes: a part of the way to what they stand for now.

A code is trained by the few tokens of each step that have it, with steps that keep their size however little those
gradients agree, while the codes before it move too: where it ends is off by noise. What it stands for, the vectors that
come to its site and have it, with all other codes as they are in the end, is known far better, and the best place for
the loss lies near. So, as in shrinkage, it goes part of the way, less far if it is rare. A model that was finetuned
with its codes has been fitted to them as they are: there it does not help.
"""

from collections.abc import Mapping
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks import Codebook, Codes
from interp.bottlenecks.attach import attach
from interp.bottlenecks.base import grouped_rows
from interp.bottlenecks.refit import step
from interp.bottlenecks.watched_book import WatchedBook
from interp.models import Model
from interp.progress import Stage, silent

SHARE = 0.25
"""Of the way. Codes of all sites move at once, each by what it sees of the others' old places: for all of the way that
is too far where a head's mean hangs on the codes before it."""
ROUNDS, TOKENS = 2, 20_000
"""Passes of text that this is worth, and tokens in each."""


@torch.no_grad()
def settle(
    model: Model,
    books: Mapping[str, Codebook],
    blocks: Int[Tensor, "block pos"],
    batch_size: int,
    stage: Stage = silent,
) -> None:
    """Move the codes, in place, by one pass of text without gradients.

    All of the way is :func:`~interp.bottlenecks.refit.refit`: with one code a vector, n / (n + RIDGE) of that to the
    mean of a code's n vectors. The first position has no say, as it has none in training.
    """
    watched = {site: _Lacking(book) for site, book in books.items()}
    device = next(model.parameters()).device
    with attach(model, watched), stage("settling the codes", len(blocks)) as done:
        for batch in blocks.split(batch_size):
            model(batch.to(device))
            done(len(batch))
    for site, book in books.items():
        book.codes.add_((SHARE * watched[site].steps()).to(book.codes.dtype))


class _Lacking(WatchedBook):
    """A book that keeps which codes its vectors have, and sums what the vectors of each code still lack."""

    def __init__(self, book: Codebook) -> None:
        super().__init__(book)
        shape = (book.config.groups, book.config.n_codes, book.config.d_in)
        self._lacking = torch.zeros(shape, device=book.device)
        self._ids: list[Tensor] = []
        self._values: list[Tensor] = []
        self._x: Tensor | None = None

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        self._x = x
        return self.book.encode(x)

    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_in"]:
        decoded, config = self.book.decode(codes), self.config
        missing = self.book.rows(self._x[:, 1:]) - grouped_rows(decoded[:, 1:], config)
        shape = (-1, config.groups, config.k)
        ids, values = (part[:, 1:].reshape(shape).transpose(0, 1) for part in (codes.ids, codes.values))
        self._ids.append(ids)
        # where codes are just on, one 1 will do for all
        self._values.append(values[:, :, :1] if self.unit_values else values)
        for group, slot in product(range(config.groups), range(config.k)):
            part = missing[group] * values[group, :, slot, None].float()
            self._lacking[group].index_add_(0, ids[group, :, slot].long(), part)
        return decoded

    def steps(self) -> Float[Tensor, "group code d_in"]:
        """All of the way."""
        ids = torch.cat(self._ids, 1)
        values = torch.cat(self._values, 1).float().expand(ids.shape)
        return torch.stack([step(*parts) for parts in zip(self._lacking, ids, values, strict=True)])
