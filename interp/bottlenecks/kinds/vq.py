"""Vector quantisation: the nearest code by distance, one for a vector, for each remainder, or for each part.

* ``vq`` (van den Oord et al. 2017, arXiv 1711.00937, with the vectors as they are): ids = argmin ‖x − c‖. The
  paper of ``codebook`` takes the most similar *direction* instead, and trains by gradients alone.
* ``residual_vq`` (Zeghidour et al. 2021, arXiv 2107.03312): slot j codes what slots before it leave; codes are
  then fitted together, by least squares.
* ``prototypes`` (Li et al. 2018, arXiv 1710.04806, as a codebook): codes are activations that have occurred.
* ``grouped_vq`` (product quantisation, Jégou et al. 2011): each slot codes a part of the vector, rotated first so
  that parts are uncorrelated and vary equally (Ge et al. 2013, the parametric form).

:meth:`VQ.fit` is k-means, where moving averages end on vectors that do not change. :meth:`VQ.partial_fit` is the step
by moving averages, for shards and streams: counts N ← γN + (1 − γ)n, sums M ← γM + (1 − γ)Σx, code = M / N. Counts and
sums are summed over all processes of a group, and each draws the same vectors for codes that died.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks.base import Book, GroupRows, Vectors, digits, grouped_rows, register
from interp.bottlenecks.kmeans import GroupedKMeans, refit
from interp.bottlenecks.processes import gathered, summed
from interp.bottlenecks.product_codebook import ProductCodebook, ProductCodebookConfig
from interp.errors import InputError

MOST_FLAT_BITS = 12  # of one slot: 4096 codes
DECAY = 0.99
DEAD = 0.1  # vectors a step, by the moving average, below which a code is drawn anew
SMOOTHING = 1e-5


@dataclass(frozen=True)
class VQConfig(ProductCodebookConfig):
    """A vector has one of ``codes`` in each of ``slots``."""

    codes: int = 512
    slots: int = 1

    @property
    def radices(self) -> tuple[int, ...]:
        return (self.codes,) * self.slots

    @classmethod
    def at(cls, bits: int, **options: Any) -> ProductCodebookConfig:
        slots, each = digits(bits)
        return cls(codes=2**each, slots=slots, **options)


@dataclass(frozen=True)
class FlatConfig(VQConfig):
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots != 1:
            raise InputError(f"slots {self.slots}: this kind has one, residual_vq and grouped_vq several")

    @classmethod
    def at(cls, bits: int, **options: Any) -> ProductCodebookConfig:
        if not 1 <= bits <= MOST_FLAT_BITS:
            raise InputError(f"{bits} bits: a kind of one code a vector has 1 to {MOST_FLAT_BITS}; or take slots")
        return cls(codes=2**bits, **options)


@register
class VQ(ProductCodebook):
    """The nearest of a set of codes."""

    kind = "vq"
    config_class: ClassVar[type] = FlatConfig
    source, use = "van den Oord et al. 2017", "reading: one code a vector"

    def __init__(self, config: VQConfig) -> None:
        super().__init__(config)
        self._size: Float[Tensor, "group code"] | None = None
        self._sum: Book

    @torch.no_grad()
    def partial_fit(self, x: Vectors) -> "ProductCodebook":
        """A step by moving averages on a shard; the first sets the codes by :meth:`fit`."""
        rows = self.comparable(grouped_rows(x, self.config))
        if self._size is None:
            self.fit(x)
        codes = self.comparable(self.codes.float())
        ids = self._choose(rows, self._prepared(codes))[0].mT
        count = self._by_code(ids, rows.new_ones(*ids.shape, 1))[..., 0]
        if self._size is None:
            self._size, self._sum = count, codes * count[..., None]
            return self
        chosen = codes[torch.arange(len(codes), device=codes.device)[:, None, None], ids]
        # what each slot's code stands for: the vector less the other slots' codes
        targets = rows[:, None] - (chosen.sum(1, keepdim=True) - chosen)
        self._size.lerp_(summed(count), 1 - DECAY)
        self._sum.lerp_(summed(self._by_code(ids, targets)), 1 - DECAY)
        total = self._size.sum(-1, keepdim=True)
        smooth = (self._size + SMOOTHING) / (total + self.config.n_codes * SMOOTHING) * total
        codes = self._sum / smooth[..., None]
        self._draw_dead(codes, gathered(targets, dim=2))
        self.set_comparable_codes(codes)
        return self

    def _by_code(self, ids: Int[Tensor, "group k row"], values: Float[Tensor, "group k row width"]) -> Tensor:
        """The sum of the values of each code, [group, code, width]."""
        values, index = values.flatten(1, 2), ids.flatten(1)[..., None]
        total = values.new_zeros(len(ids), self.config.n_codes, values.shape[-1])
        return total.scatter_add_(1, index.expand_as(values), values)

    def _draw_dead(self, codes: Tensor, targets: Float[Tensor, "group k row d_in"]) -> None:
        assert self._size is not None
        generator = torch.Generator().manual_seed(self.config.seed)
        for group, code in (self._size < DEAD).nonzero().tolist():
            rows = targets[group, self.slots_of(code).start]
            codes[group, code] = rows[torch.randint(len(rows), (), generator=generator)]
            # as if it had had so many all along: what it had before is gone with it
            self._size[group, code] = 1.0
            self._sum[group, code] = codes[group, code]

    def stage(self, rows: Tensor, slot: int) -> GroupedKMeans:
        """The codes of one slot, for what the slots before it leave."""
        config = self.config
        return GroupedKMeans(config.codes, spherical=False, seed=config.seed + slot).fit(rows)

    def stages(self, rows: Tensor) -> Tensor:
        """The codes of all slots, each for what those before it leave."""
        rest, books = rows, []
        for slot in range(self.config.slots):
            books.append(self.stage(rest, slot))
            if slot + 1 < self.config.slots:
                rest = rest - books[-1].nearest(rest)
        return torch.cat([book.centres_ for book in books], 1)

    def learn(self, rows: Tensor) -> Tensor:
        codes = self.stages(rows)
        return refit(rows, self._choose(rows, self._prepared(codes))[0], codes) if self.successive else codes


@register
class ResidualVQ(VQ):
    """Each slot the nearest code to what the slots before it leave."""

    kind, config_class = "residual_vq", VQConfig
    source, use = "Zeghidour et al. 2021", "keeping the model intact: programs, steering, high rates"

    @property
    def successive(self) -> bool:
        return self.config.slots > 1


@register
class Prototypes(VQ):
    """The nearest of a set of vectors that have occurred.

    k-means sees to it that each vector lies near some code; each centre is then moved onto the nearest vector that no
    other has, so that the vector of a code can be looked up in the text: ``examples`` has its number among those of
    :meth:`fit`, of blocks of text block · length + position. Their autoencoder is the identity, or W_O.
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
        for group, (vectors, book) in enumerate(zip(rows, centres, strict=True)):
            free = vectors.new_zeros(len(vectors))
            for code, centre in enumerate(book):
                row = ((vectors - centre).square().sum(-1) + free).argmin()
                self.examples[group, code], free[row] = row, torch.inf
        return rows.gather(1, self.examples[..., None].expand_as(centres))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"examples": self.examples}


@register
class GroupedVQ(ProductCodebook):
    """Each slot the nearest code to its part of the vector."""

    kind, config_class = "grouped_vq", VQConfig
    source, use = "Jégou et al. 2011; Ge et al. 2013", "product codes: parts that vary independently"

    def learn(self, rows: Tensor) -> Tensor:
        return product_codes(rows, self.config.slots, self.config.codes, self.config.seed)


def product_codes(rows: GroupRows, slots: int, n_codes: int, seed: int) -> Book:
    """k-means of each of the vectors' parts: codes of a part are 0 in all others."""
    groups, _, d_in = rows.shape
    if slots > d_in:
        raise InputError(f"slots {slots}: vectors have {d_in} coordinates to share out")
    axes, parts = shared_out(rows, slots)
    turned, codes = rows @ axes, []
    for slot, axis in enumerate(parts):
        part = turned.gather(2, axis[:, None].expand(-1, rows.shape[1], -1))
        centres = GroupedKMeans(n_codes, spherical=False, seed=seed + slot).fit(part).centres_
        whole = centres.new_zeros(groups, n_codes, d_in)
        codes.append(whole.scatter_(2, axis[:, None].expand_as(centres), centres) @ axes.mT)
    return torch.cat(codes, 1)


def shared_out(rows: GroupRows, n: int) -> tuple[Float[Tensor, "group d_in d_in"], list[Int[Tensor, "group part"]]]:
    """Principal axes as columns, and which of them each of ``n`` parts has: the largest variance that is left goes to
    the part whose product of variances is smallest, of those that have room."""
    apart = rows - rows.mean(1, keepdim=True)
    variance, axes = torch.linalg.eigh(apart.mT @ apart / rows.shape[1])
    d = rows.shape[-1]
    sizes = [len(part) for part in torch.arange(d).tensor_split(n)]
    of_groups = []
    for values in variance.flip(-1).clamp(min=1e-12).log().tolist():
        members: list[list[int]] = [[] for _ in range(n)]
        total = [0.0] * n
        for rank, value in enumerate(values):
            part = min((j for j in range(n) if len(members[j]) < sizes[j]), key=lambda j: (total[j], j))
            members[part].append(rank)
            total[part] += value - values[-1]
        of_groups.append(members)
    parts = [torch.tensor([members[j] for members in of_groups], device=rows.device) for j in range(n)]
    return axes.flip(-1), parts
