"""A dictionary of codes: what codebooks and the other kinds of the family have in common.

A vector is the sum of a few codes, each times a value, plus a bias if there is one. Kinds differ in
how codes are chosen and learned. What reads, counts, edits, indexes, steers by or trains codes works on any of them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.bottlenecks.base import (
    Book,
    Bottleneck,
    Codes,
    GroupRows,
    Vectors,
    count_codes,
    grouped_rows,
    id_dtype,
    straight_through,
    sum_of_codes,
)
from interp.bottlenecks.kmeans import similarities_at_once
from interp.errors import InputError, whole_number


@dataclass(frozen=True)
class SearchCache:
    """A book as vectors are compared with it: codes in the space of the comparison and their lengths; ⟨vector, factor⟩
    + offset is highest for the code to choose."""

    codes: Book
    norm: Float[Tensor, "group code"]
    factors: Book
    offset: Float[Tensor, "group 1 code"] | None

    def gain(self, rows: GroupRows, without: Bool[Tensor, "group code"] | None) -> Float[Tensor, "group row code"]:
        """Higher is better; −∞ for codes that are left out."""
        factors = self.factors.mT
        gain = torch.bmm(rows, factors) if self.offset is None else torch.baddbmm(self.offset, rows, factors)
        return gain if without is None else gain.masked_fill(without[:, None], float("-inf"))


T = TypeVar("T", bound="Dictionary")


class Dictionary(nn.Module, Bottleneck):
    """One dictionary, or one per group, all groups in one tensor operation. ``codes``: the trainable parameter; all of
    it may be float32 or bfloat16. Similarities are always float32. ``counts``: how often each code was counted by
    :meth:`count` or :meth:`count_text`."""

    kind = "dictionary"
    trains: ClassVar[bool] = True  # whether gradients may move the codes
    unrounded: Tensor | None = None
    """Of a kind that rounds its codes, what they are rounded from while they are trained."""
    counts: Int[Tensor, "group code"]

    def __init__(self, config: Any, codes: Book) -> None:
        super().__init__()
        self.config = config
        self.codes = nn.Parameter(codes)
        self.register_buffer("counts", torch.zeros(codes.shape[:2], dtype=torch.int64))
        self._cache: tuple[list, SearchCache] | None = None

    @property
    def unit_values(self) -> bool:
        return True

    @property
    def successive(self) -> bool:
        """Whether codes are taken one after another, each for what those before it leave."""
        return False

    @abstractmethod
    def _select(
        self, rows: GroupRows, book: SearchCache, without: Bool[Tensor, "group code"] | None
    ) -> tuple[Int[Tensor, "group row k"], Float[Tensor, "group row k"]]:
        """Ids and values of the codes of comparable vectors, those ``without`` left out."""

    @torch.no_grad()
    def encode(self, x: Vectors) -> Codes:
        """The codes of every vector, strongest (or first taken) first; of exact ties any may win."""
        return self._encoded(x, None)

    @torch.no_grad()
    def encode_without(self, x: Vectors, without: Bool[Tensor, "group code"]) -> Codes:
        """As :meth:`encode`, with the codes that are marked never chosen: the next best is."""
        left = self.config.n_codes - int(without.sum(-1).max())
        if left < self.config.k:
            raise InputError(f"{left} codes are not forbidden: a vector has {self.config.k}")
        return self._encoded(x, without)

    def decode(self, codes: Codes) -> Vectors:
        """Σ value · code, with a gradient to the codes that are named."""
        return sum_of_codes(self.codes, codes)

    def difference(self, codes: Codes, others: Codes) -> Vectors:
        """One sum over the slots of both, those in which they are the same left out."""
        same = (codes.ids == others.ids) & (codes.values == others.values)
        values = torch.cat([codes.values, -others.values], -1).masked_fill(torch.cat([same, same], -1), 0)
        return sum_of_codes(self.codes, Codes(torch.cat([codes.ids, others.ids], -1), values))

    def forward(self, x: Vectors) -> Vectors:
        """Encode and decode, the gradient straight through."""
        return straight_through(x, self.decode(self.encode(x)))

    def means(self) -> Book:
        """Of every code the mean of those that could stand in its place, see :func:`mean_code`.

        For one code a vector, and for k most similar ones, it is what codes have in common. Of codes taken one after
        another those of the first slot have nearly all of that: the mean of all slots is about a k-th of it.
        """
        return mean_code(self.codes.detach().float(), self.counts)[:, None].expand_as(self.codes)

    def count(self, ids: Int[Tensor, "*batch k"]) -> None:
        """Add to the usage statistics ``counts``."""
        self.counts += count_codes(ids, self.config.n_codes, self.config.groups)

    def count_text(self, ids: Int[Tensor, "block pos *place k"]) -> None:
        """:meth:`count` of blocks of text, in which the codes of the first position are no more than seen.

        What stands there is the same in every block, and at some MLPs hundreds of times as long as what stands
        elsewhere: a sixtieth of all counts would make nearly all of :meth:`mean_code`.
        """
        self.count(ids[:, 1:])
        first = count_codes(ids[:, :1], self.config.n_codes, self.config.groups)
        torch.maximum(self.counts, (first > 0).to(self.counts), out=self.counts)

    @torch.no_grad()
    def replace_dead(
        self,
        x: Vectors,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        at_most: int = 0,
        generator: torch.Generator | None = None,
        own_length: bool = False,
    ) -> int:
        """Give codes counted at most ``at_most`` times the direction of a vector that is badly coded; returns how many.

        Vectors are drawn from ``x`` with chances ∝ their squared error. The new code is as long as the living codes
        of its group are on average, or with ``own_length`` as its share of the vector itself; what the optimizer has
        gathered on the old one is set to zero. All counts begin anew.
        """
        rows = self.rows(x)
        error = (rows - grouped_rows(self.decode(self.encode(x)), self.config)).square().sum(-1)
        dead = self.counts <= at_most
        lengths = self.codes.float().norm(dim=-1)
        for group in dead.any(1).nonzero()[:, 0].tolist():
            mask = dead[group]
            size = int(mask.sum())
            weights = error[group] if bool(error[group].sum() > 0) else torch.ones_like(error[group])
            repeated = size > int((weights > 0).sum())
            index = torch.multinomial(weights, size, replacement=repeated, generator=generator)
            drawn = rows[group, index]
            if own_length or mask.all():
                new = drawn / self.config.k
            else:
                new = nn.functional.normalize(drawn, dim=-1) * lengths[group, ~mask].mean()
            self.codes[group, mask] = new.to(self.codes.dtype)
        for moment in {} if optimizer is None else optimizer.state.get(self.codes, {}).values():
            if isinstance(moment, Tensor) and moment.shape[:2] == self.codes.shape[:2]:  # of each code
                moment[dead] = 0
        self.counts.zero_()
        return int(dead.sum())

    def with_k(self: T, k: int) -> T:
        """The same codes with fewer per vector; ids of the first k slots stay as they are."""
        if not 1 <= whole_number("k", k) <= self.config.k:
            raise InputError(f"k {k}: choose 1 to {self.config.k}, which this codebook was fitted for")
        return self.restored(replace(self.config, k=k), self.tensors())

    def of_group(self: T, group: int) -> T:
        """A codebook of one group alone, such as one head's; raises :class:`KeyError` where there is none."""
        if not 0 <= group < self.config.groups:
            raise KeyError(f"group {group}: there are 0 to {self.config.groups - 1}")
        tensors = {name: tensor[group : group + 1] for name, tensor in self.tensors().items()}
        return self.restored(replace(self.config, groups=1), tensors)

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": self.codes, "counts": self.counts}

    @classmethod
    def restored(cls: type[T], config: Any, tensors: Mapping[str, Tensor]) -> T:
        make: Any = cls  # each kind makes codes of its own
        book = make(config).to(tensors["codes"].device, tensors["codes"].dtype)
        book.load_state_dict(dict(tensors))
        return book

    def rows(self, x: Tensor) -> GroupRows:
        """What the codes stand for: the vectors, as they are here."""
        return grouped_rows(x, self.config)

    def _encoded(self, x: Tensor, without: Bool[Tensor, "group code"] | None) -> Codes:
        if torch.is_autocast_enabled(x.device.type):
            # which would round products, and what is kept for the next call with them
            with torch.autocast(x.device.type, enabled=False):
                return self._encoded(x, without)
        chosen = self._choose(self.comparable(self.rows(x)), self.search_cache(), without)
        ids, values = (part.transpose(0, 1) for part in chosen)
        shape = (*x.shape[:-1], self.config.k)
        return Codes(ids.reshape(shape).to(id_dtype(self.config.n_codes)), values.reshape(shape))

    def _choose(
        self, rows: Tensor, book: SearchCache, without: Bool[Tensor, "group code"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """:meth:`_select` for as many rows at a time as fit 64 MiB of similarities, 4 MiB on a processor."""
        step = max(1, similarities_at_once(rows) // (self.config.groups * self.config.n_codes))
        if rows.shape[1] <= step:
            return self._select(rows, book, without)
        parts = [self._select(part, book, without) for part in rows.split(step, dim=1)]
        ids, values = (torch.cat(group, 1) for group in zip(*parts, strict=True))
        return ids, values

    def constrain(self) -> None:
        """Bring codes that a training step has moved back to the form that the kind gives them."""

    def comparable(self, rows: GroupRows) -> GroupRows:
        """Vectors, or codes, as they are compared with each other; here as they are."""
        return rows

    def search_cache(self) -> SearchCache:
        """The codes as vectors are compared with them; made anew only when a tensor has changed, as it costs more than
        the comparison while a text is generated."""
        # ids of objects can be used again, so the objects themselves are kept; those of inference tell no version
        made_of = [
            (t, object() if t.is_inference() else t._version, t.data_ptr())
            for name, t in self.tensors().items()
            if name != "counts"
        ]
        if self._cache is None or not all(
            old[0] is new[0] and old[1:] == new[1:] for old, new in zip(self._cache[0], made_of, strict=True)
        ):
            self._cache = made_of, self._prepared(self.comparable(self.codes.detach().float()))
        return self._cache[1]

    def _prepared(self, book: Book) -> SearchCache:
        """For the code of the smallest distance."""
        norm = book.norm(dim=-1).clamp(min=1e-12)
        return SearchCache(book, norm, book, book.square().sum(-1)[:, None] / -2)


def mean_code(codes: Book, counts: Int[Tensor, "group code"]) -> Float[Tensor, "group d_in"]:
    """By how often each was counted, or evenly if they never were."""
    weights = torch.where(counts.sum(-1, keepdim=True) > 0, counts.float(), 1.0)
    return torch.einsum("gc,gcd->gd", weights / weights.sum(-1, keepdim=True), codes)


def chosen_sum(book: Book, ids: Int[Tensor, "group row k"]) -> GroupRows:
    """Σ_k code of every row."""
    ids = ids.transpose(0, 1)
    total = sum_of_codes(book, Codes(ids, torch.ones_like(ids, dtype=book.dtype)))
    return total.reshape(*ids.shape[:2], -1).transpose(0, 1)
