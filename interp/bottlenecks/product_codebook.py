"""Slots with codes of their own: stages, parts, digits and bits.

Slot j holds one of its own R_j codes, always. Ids count through all slots, so that those of slot j are
R_0 + … + R_{j−1} and on: a bit has two ids, off and on, and setting one flips it. An id therefore says which slot it is
of, no id is larger than the sum of the R_j, and whatever works on codebooks works on digits and bits. A vector is the
sum of its codes; what all vectors have in common is in the codes of the first slot.

Vectors can be compared after a linear map, as in :mod:`interp.bottlenecks.kinds.metric_codebook`: codes are then chosen
and learned in what the map makes of them.
"""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.bottlenecks.base import Book, Codes, GroupRows, Vectors, grouped_rows
from interp.bottlenecks.dictionary import SearchCache, chosen_sum, mean_code
from interp.bottlenecks.kinds.metric_codebook import ByMap
from interp.errors import InputError, check_fields

MOST_CODES = 2**22  # codes of all slots of a group: what an index and the counts can hold


@dataclass(frozen=True)
class ProductCodebookConfig:
    """Size of the vectors, independent dictionaries (one per head), and the seed of everything that is drawn."""

    d_in: Annotated[int, Ge(1)]
    groups: Annotated[int, Ge(1)] = 1
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.radices or min(self.radices) < 2:
            raise InputError(f"{self}: it needs a slot, and two codes in each")
        if self.n_codes > MOST_CODES:
            raise InputError(f"{self.n_codes} codes in {self.k} slots: at most {MOST_CODES} can be counted")

    @property
    def radices(self) -> tuple[int, ...]:
        """Codes of every slot."""
        raise NotImplementedError

    @property
    def n_codes(self) -> int:
        return sum(self.radices)

    @property
    def k(self) -> int:
        return len(self.radices)

    @classmethod
    def at(cls, bits: int, **options: Any) -> "ProductCodebookConfig":
        """The config of about so many bits a vector."""
        raise NotImplementedError


class ProductCodebook(ByMap):
    config: Any

    def __init__(self, config: ProductCodebookConfig) -> None:
        super().__init__(config, torch.zeros(config.groups, config.n_codes, config.d_in))
        self.starts = (0, *accumulate(config.radices))

    @abstractmethod
    def learn(self, rows: GroupRows) -> Book:
        """The codes for comparable vectors, all learned from scratch."""

    def fit(self, x: Vectors) -> "ProductCodebook":
        """Learn from scratch; the same vectors and config give the same codes."""
        rows, most = grouped_rows(x, self.config), max(self.config.radices)
        if rows.shape[1] < most:
            raise InputError(f"{rows.shape[1]} vectors for {most} codes: give at least one vector per code")
        self.set_comparable_codes(self.learn(self.comparable(rows)))
        return self

    @torch.no_grad()
    def set_comparable_codes(self, codes: Book) -> None:
        """Take these codes, which are as vectors are compared, in place of those there are."""
        self.codes.copy_(torch.linalg.solve(self.metric.float(), codes, left=False))

    def slots_of(self, code: int) -> range:
        slot = next(j for j, end in enumerate(self.starts[1:]) if code < end)
        return range(slot, slot + 1)

    def encode_without(self, x: Tensor, without: Bool[Tensor, "group code"]) -> Codes:
        for part in without.split(self.config.radices, -1):
            if part.all(-1).any():
                raise InputError("all codes of a slot are forbidden: leave it one")
        return self._encoded(x, without)

    def with_k(self, k: int) -> "ProductCodebook":
        if k != self.config.k:
            raise InputError(f"k {k}: a {self.kind} of {self.config.k} slots has a code in each")
        return self.restored(self.config, self.tensors())

    def means(self) -> Book:
        parts = (x.split(self.config.radices, 1) for x in (self.codes.detach().float(), self.counts))
        means = [mean_code(book, count)[:, None].expand_as(book) for book, count in zip(*parts, strict=True)]
        return torch.cat(means, 1)

    def gains(self, rows: GroupRows, book: SearchCache) -> Float[Tensor, "group row code"]:
        """How much each code is preferred within its slot; here by the smallest distance."""
        return book.gain(rows, None)

    def _select(
        self, rows: Tensor, book: SearchCache, without: Tensor | None
    ) -> tuple[Int[Tensor, "group row k"], Float[Tensor, "group row k"]]:
        if self.successive:
            return self._one_by_one(rows, book, without)
        gains = self.gains(rows, book)
        if without is not None:
            gains = gains.masked_fill(without[:, None], -torch.inf)
        first = self.config.radices[0]
        if len(set(self.config.radices)) == 1:
            ids = gains.unflatten(-1, (-1, first)).argmax(-1)
        else:
            ids = torch.stack([part.argmax(-1) for part in gains.split(self.config.radices, -1)], -1)
        ids = ids + torch.tensor(self.starts[:-1], device=ids.device)
        return ids, rows.new_ones(ids.shape)

    def _one_by_one(self, rows: Tensor, book: SearchCache, without: Tensor | None) -> tuple[Tensor, Tensor]:
        """Each slot for what those before it leave."""
        ids = []
        for begin, end in zip(self.starts, self.starts[1:], strict=False):
            codes = book.codes[:, begin:end]
            gains = torch.baddbmm(codes.square().sum(-1)[:, None] / -2, rows, codes.mT)
            if without is not None:
                gains = gains.masked_fill(without[:, None, begin:end], -torch.inf)
            ids.append(gains.argmax(-1, keepdim=True) + begin)
            rows = rows - chosen_sum(book.codes, ids[-1])
        return torch.cat(ids, -1), rows.new_ones(*rows.shape[:2], len(ids))
