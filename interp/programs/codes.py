"""What a head says at a role: the fewest codes that carry its effect there.

*Carried* is the share of the slot's effect that it has when z becomes z + c(corrupt) − c(clean), c the codes of both
prompts. *Own cost* is the share that is lost when z becomes its own code. A codebook must have both: one that keeps
nothing carries everything when the corrupt side's code is spliced in, and costs everything as well.

Codes are fitted by k-means (:class:`~interp.bottlenecks.codebook.Codebook`) to what stands at the slot on prompts of
their own, clean and corrupt. How many there are is decided on other prompts, and what they carry is measured on
prompts that neither has seen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks.codebook import Codebook, CodebookConfig
from interp.programs.slots import Edit, Slot, SlotRunner
from interp.stats import mean_interval

LEAST = 5
"""Training prompts that every code is met by."""
ENOUGH, MOST_COST, MARGIN = 0.9, 0.1, 0.03
SIZES = ((2, 4, 8), (16, 32), (64, 128, 256))
PER_CODE = 8
"""Training prompts a code that k-means starts with: some codes get fewer than :data:`LEAST` and go."""
FEWEST_PAIRS, FORWARDS = 16, 2.0
"""Pairs by which the number of codes is decided: so many at least, and up to where one change of all of them costs so
many forward passes."""


def fit_few(z: Float[Tensor, "prompt d"], n_codes: int, seed: int = 0) -> Codebook:
    """At most ``n_codes`` codes, each nearest to :data:`LEAST` prompts or more."""
    config = CodebookConfig(d_in=z.shape[-1], n_codes=n_codes, selection="matching_pursuit", seed=seed)
    book = Codebook(config).fit(z)
    while True:
        met = torch.bincount(book.encode(z).ids.flatten().long(), minlength=book.config.n_codes)
        if len(met) == 1 or int(met.min()) >= LEAST:
            return Codebook.restored(book.config, {"codes": book.codes.detach(), "counts": met[None]})
        kept = torch.arange(len(met)) != met.argmin()
        book = Codebook.restored(
            replace(config, n_codes=int(kept.sum())),
            {"codes": book.codes[:, kept].detach(), "counts": book.counts[:, kept]},
        )


@dataclass(frozen=True)
class Carried:
    """What a codebook keeps of a slot's effect; the sums over pairs that the shares are of.

    Attributes:
        effect: fall of the metric with the corrupt prompt's z at the slot.
        by_codes: with z + c(corrupt) − c(clean).
        own: with c(clean) in place of z.
    """

    effect: Float[np.ndarray, " pair"]
    by_codes: Float[np.ndarray, " pair"]
    own: Float[np.ndarray, " pair"]

    @property
    def carried(self) -> float:
        return float(self.by_codes.sum() / self.effect.sum())

    @property
    def own_cost(self) -> float:
        return float(self.own.sum() / self.effect.sum())

    @property
    def enough(self) -> bool:
        """With a margin, so that it holds on prompts by which the codebook was not chosen."""
        return self.carried >= ENOUGH + MARGIN and abs(self.own_cost) <= MOST_COST - MARGIN

    @property
    def short(self) -> float:
        """How far it is from carrying everything at no cost."""
        return max(0, 1 - self.carried) + abs(self.own_cost)

    def interval(self, seed: int) -> tuple[float, float]:
        """95 % of the effect, over pairs."""
        low, high = mean_interval(self.effect[:, None], seed)
        return float(low[0]), float(high[0])


def measure(
    runner: SlotRunner, slot: Slot, books: Sequence[Codebook], pairs: Int[np.ndarray, " pair"]
) -> list[Carried]:
    """What each of some codebooks keeps of a slot's effect on these pairs."""
    z = runner.z[slot][:, torch.from_numpy(pairs)]
    decoded = [book.decode(book.encode(z)).detach() for book in books]
    values = [z[1], *(value for c in decoded for value in (z[0] + c[1] - c[0], c[0]))]
    found = runner.run(np.tile(pairs, len(values)), [Edit(slot, torch.cat(values))])
    falls = (np.tile(runner.metric[0, pairs], len(values)) - found.metric).reshape(len(values), len(pairs))
    return [Carried(falls[0], falls[1 + 2 * i], falls[2 + 2 * i]) for i in range(len(books))]


def fewest(runner: SlotRunner, slot: Slot, z: Float[Tensor, "prompt d"], seed: int = 0) -> Codebook:
    """The smallest codebook that carries enough on the runner's pairs; where none does, the least short of it.

    First the sizes of :data:`SIZES`, a row of them at a time, then sizes in between; on fewer pairs where a change at
    the slot is costly.
    """
    n = int(min(len(runner.pairs), max(FEWEST_PAIRS, FORWARDS / runner.cost(slot))))

    def tried(sizes: Iterable[int]) -> list[tuple[bool, float, int, Codebook]]:
        sizes = sorted(size for size in sizes if size * PER_CODE <= len(z))
        books = [fit_few(z, size, seed) for size in sizes]
        found = measure(runner, slot, books, np.arange(n))
        return [
            (one.enough, one.short, size, book) for one, size, book in zip(found, sizes, books, strict=True)
        ]

    first: list[tuple[bool, float, int, Codebook]] = []
    for some in SIZES:
        if some[0] * PER_CODE <= len(z) and not any(enough for enough, *_ in first):
            first += tried(some)
    high = next((size for enough, _, size, _ in first if enough), first[-1][2])
    between = tried({high - high // 2 * step // 4 for step in (1, 2, 3)})
    everything = sorted(first + between, key=lambda one: one[2])
    return next(
        (book for enough, *_, book in everything if enough), min(everything, key=lambda one: one[1])[-1]
    )


def ids(book: Codebook, z: Float[Tensor, "*prompt d"]) -> Int[np.ndarray, "*prompt"]:
    """The code of every prompt."""
    return book.encode(z).ids[..., 0].numpy().astype(int)


def bits(codes: Int[np.ndarray, "..."]) -> float:
    """Entropy of the codes in use."""
    share = np.bincount(codes.ravel()) / codes.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum()) + 0.0
