"""The last thing that can be done to distilled codes: a part of the way to what they stand for by then.

A code is trained by the few tokens of each step that have it, while the codes before it move too. Where it ends is
probably off by noise and a little behind; what it stands for, given all other codes as they are in the end, is better
known. So, as in shrinkage, it goes part of the way, less far if it is rare. docs/codebooks.md has what this buys.

Not for codes that a model was finetuned with: it has been fitted to them as they are. Nor for ``nested`` training, as
the least squares is for one number of codes.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks import Codebook, Codes
from interp.bottlenecks.attach import attach
from interp.bottlenecks.base import grouped_rows
from interp.bottlenecks.refit import least_squares_move
from interp.bottlenecks.watched_book import WatchedBook
from interp.models import Model
from interp.progress import Stage, silent

SHARE = 0.25
"""Of the way. All of it at once is too far: codes of all sites move together, each by what it sees of the others' old
places, and the error of one head, which hardly varies, came to twenty times its variance. A quarter can be too far for
such a head, too (docs/codebooks.md): look at the least variance explained."""
TOKENS = 20_000
"""Of the text of one round."""


@torch.no_grad()
def settle(
    model: Model,
    books: Mapping[str, Codebook],
    blocks: Int[Tensor, "block pos"],
    batch_size: int,
    stage: Stage = silent,
) -> None:
    """One round: move the codes, in place, by one pass of text without gradients.

    They go :data:`SHARE` of the way to the least squares of :func:`~interp.bottlenecks.refit.refit`. With one code a
    vector, a code goes SHARE · n / (n + RIDGE) of the way to the mean of its n vectors. The first position has no say,
    as it has none in training.
    """
    watched = {site: _Lacking(book) for site, book in books.items()}
    device = next(model.parameters()).device
    with attach(model, watched), stage("settling the codes", len(blocks)) as done:
        for batch in blocks.split(batch_size):
            model(batch.to(device))
            done(len(batch))
    for site, book in books.items():
        book.codes.add_((SHARE * watched[site].moves()).to(book.codes.dtype))


class _Lacking(WatchedBook):
    """A book that keeps which codes its vectors have, and sums what the vectors of each code still lack."""

    def __init__(self, book: Codebook) -> None:
        super().__init__(book)
        shape = (book.config.groups, book.config.n_codes, book.config.d_in)
        self._lacking = torch.zeros(shape, device=book.device)
        self._ids: list[Tensor] = []
        self._values: list[Tensor] = []  # none where codes are just on
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
        if not self.unit_values:
            self._values.append(values.float())
        first = config.n_codes * torch.arange(config.groups, device=ids.device)[:, None]
        for slot in range(config.k):
            part = missing * values[..., slot, None].float()
            flat = (ids[..., slot].long() + first).flatten()
            self._lacking.flatten(0, 1).index_add_(0, flat, part.flatten(0, 1))
        return decoded

    def moves(self) -> Float[Tensor, "group code d_in"]:
        """All of the way."""
        ids = torch.cat(self._ids, 1)
        values = torch.cat(self._values, 1) if self._values else [None] * len(ids)
        return torch.stack(
            [least_squares_move(*parts) for parts in zip(self._lacking, ids, values, strict=True)]
        )
