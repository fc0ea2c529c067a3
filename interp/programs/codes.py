"""What a head says at a role: the fewest codes that carry its effect there.

*KeptEffect* is the share of the slot's effect that it has when z becomes z + c(corrupt) − c(clean), c the codes of both
prompts. *Own cost* is the share that is lost when z becomes its own code. A codebook must have both: one that keeps
nothing carries everything when the corrupt side's code is spliced in, and costs everything as well.

Codes are fitted by k-means to what stands at the slot on prompts of their own, clean and corrupt. Vectors are compared
in several ways (:func:`metric_of`). How many codes there are is decided on other prompts, and what they carry is
measured on prompts that neither has seen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.bottlenecks.kinds.metric_codebook import MetricCodebook
from interp.programs.slots import Edit, HeadAtRole, SlotRunner
from interp.stats import mean_interval

LEAST = 5
"""Training prompts that every code is met by."""
ENOUGH, MOST_COST, MARGIN = 0.9, 0.1, 0.02
SIZES = ((2, 4, 8), (16, 32), (64, 128, 256))
ROUGH_SIZES = (4, 16, 64)
CONFIRMED = 5
"""Codebooks that are looked at on all pairs."""
PER_CODE = 8
"""Training prompts a code that k-means starts with: some codes get fewer than :data:`LEAST` and go."""
Metric = Literal["difference", "plain", "contrast"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""How vectors are compared, see :func:`metric_of`; ``plain`` compares them as they are."""
RIDGE = 0.1
"""Added to the covariance that pairs share, in units of its mean diagonal."""
FEWEST_PAIRS, FORWARDS = 16, 2.0
"""Pairs by which the number of codes is decided: so many at least, and up to where one change of all of them costs so
many forward passes."""


def metric_of(z: Float[Tensor, "2 pair d"], metric: Metric) -> Float[Tensor, "1 d pair"]:
    """What vectors are multiplied with before they are compared.

    D the covariance of the differences within pairs and C that of the pairs' means: ``difference`` compares by D,
    ``contrast`` by C⁻¹ D C⁻¹, as a linear discriminant does. What both prompts of a pair share, such as the template,
    takes fewer codes then.
    """
    clean, corrupt = z
    difference = (clean - corrupt).mT
    if metric == "difference":
        return difference[None]
    mean = (clean + corrupt) / 2
    mean = mean - mean.mean(0)
    shared = mean.mT @ mean
    ridge = RIDGE * shared.diagonal().mean() * torch.eye(len(shared))
    return torch.linalg.solve(shared + ridge, difference)[None]


def fit_few(
    z: Float[Tensor, "2 pair d"], n_codes: int, metric: Metric = "plain", seed: int = 0
) -> MetricCodebook:
    """At most ``n_codes`` codes, each nearest to :data:`LEAST` prompts or more."""
    rows = z.flatten(0, 1)
    config = CodebookConfig(d_in=z.shape[-1], n_codes=n_codes, selection="matching_pursuit", seed=seed)
    book = MetricCodebook(config)
    if metric != "plain" and not torch.equal(z[0], z[1]):
        book.compare_by(metric_of(z, metric))
    book.fit(rows)
    while True:
        met = torch.bincount(book.encode(rows).ids.flatten().long(), minlength=book.config.n_codes)
        kept = torch.arange(len(met)) != met.argmin()
        if int(met.min()) >= LEAST or len(met) == 1:
            kept[:] = True
        tensors = {"codes": book.codes[:, kept].detach(), "counts": met[None, kept], "metric": book.metric}
        book = MetricCodebook.restored(replace(config, n_codes=int(kept.sum())), tensors)
        if kept.all():
            return book


@dataclass(frozen=True)
class KeptEffect:
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
    def effect_kept(self) -> float:
        return float(self.by_codes.sum() / self.effect.sum())

    @property
    def reconstruction_cost(self) -> float:
        return float(self.own.sum() / self.effect.sum())

    @property
    def enough(self) -> bool:
        """With a margin, so that it holds on prompts by which the codebook was not chosen."""
        return self.effect_kept >= ENOUGH + MARGIN and abs(self.reconstruction_cost) <= MOST_COST - MARGIN

    @property
    def short(self) -> float:
        """How far it is from carrying everything at no cost."""
        return max(0, 1 - self.effect_kept) + abs(self.reconstruction_cost)

    def interval(self, seed: int) -> tuple[float, float]:
        """95 % of the effect, over pairs."""
        low, high = mean_interval(self.effect[:, None], seed)
        return float(low[0]), float(high[0])


def measure(
    runner: SlotRunner, slot: HeadAtRole, books: Sequence[Codebook], pairs: Int[np.ndarray, " pair"]
) -> list[KeptEffect]:
    """What each of some codebooks keeps of a slot's effect on these pairs."""
    z = runner.z(slot)[:, torch.from_numpy(pairs)]
    return kept_by(runner, slot, [book.decode(book.encode(z)).detach() for book in books], pairs)


def kept_by(
    runner: SlotRunner,
    slot: HeadAtRole,
    decoded: Sequence[Float[Tensor, "2 pair d"]],
    pairs: Int[np.ndarray, " pair"],
) -> list[KeptEffect]:
    """The same of what codes of any kind stand for on both sides of these pairs."""
    z = runner.z(slot)[:, torch.from_numpy(pairs)]
    values = [z[1], *(value for c in decoded for value in (z[0] + c[1] - c[0], c[0]))]
    found = runner.run(np.tile(pairs, len(values)), [Edit(slot, torch.cat(values))])
    falls = (np.tile(runner.metric[0, pairs], len(values)) - found.metric).reshape(len(values), len(pairs))
    return [KeptEffect(falls[0], falls[1 + 2 * i], falls[2 + 2 * i]) for i in range(len(decoded))]


@dataclass(frozen=True)
class _Tried:
    book: MetricCodebook
    found: KeptEffect
    size: int

    @property
    def rank(self) -> tuple[bool, float]:
        return not self.found.enough, float(self.size) if self.found.enough else self.found.short


def fewest(
    runner: SlotRunner, slot: HeadAtRole, z: Float[Tensor, "2 pair d"], seed: int = 0, *, rough: bool = False
) -> tuple[MetricCodebook, KeptEffect]:
    """The smallest codebook that carries enough on the runner's pairs, and what it carries there; where none carries
    enough, the least short of it.

    By the first metric the sizes of :data:`SIZES` are tried on half of the pairs, a row of them at a time, then sizes
    in between; by the others only smaller ones than the best. The smallest have to hold on all pairs. Where a change
    at the slot is costly, there are fewer pairs.

    Args:
        rough: look at few sizes by one metric on few pairs, as a slot of little effect deserves.
    """
    n = int(min(len(runner.pairs) // 2, max(FEWEST_PAIRS, FORWARDS / runner.cost(slot))))
    most = 2 * z.shape[1] // PER_CODE

    def tried(sizes: Iterable[int], metric: Metric) -> list[_Tried]:
        wanted = sorted({size for size in sizes if size <= most})
        books = [fit_few(z, size, metric, seed) for size in wanted]
        found = measure(runner, slot, books, np.arange(n))
        return [_Tried(*one) for one in zip(books, found, wanted, strict=True)]

    if rough:
        n = min(n, FEWEST_PAIRS)
        best = min(tried(ROUGH_SIZES, METRICS[0]) or tried([2], METRICS[0]), key=lambda one: one.rank)
        return best.book, best.found
    everything: list[_Tried] = []
    for some in SIZES:
        if some[0] <= most and not any(one.found.enough for one in everything):
            everything += tried(some, METRICS[0])
    best = min(everything, key=lambda one: one.rank)
    everything += tried([best.size - best.size // 2 * step // 4 for step in (1, 2, 3)], METRICS[0])
    for metric in METRICS[1:]:
        best = min(everything, key=lambda one: one.rank)
        if best.found.enough and best.size <= SIZES[0][1]:
            break
        sizes = [best.size * step // 4 for step in (1, 2, 3)] if best.found.enough else [most // 2, most]
        everything += tried(sizes, metric)
    chosen = sorted(everything, key=lambda one: one.rank)[:CONFIRMED]
    both = np.arange(min(len(runner.pairs), 2 * n))
    found = measure(runner, slot, [one.book for one in chosen], both)
    confirmed = [replace(one, found=its) for one, its in zip(chosen, found, strict=True)]
    best = min(confirmed, key=lambda one: one.rank)
    return best.book, best.found


def ids(book: Codebook, z: Float[Tensor, "*prompt d"]) -> Int[np.ndarray, "*prompt"]:
    """The code of every prompt."""
    return book.encode(z).ids[..., 0].numpy().astype(int)


def bits(codes: Int[np.ndarray, "..."]) -> float:
    """Entropy of the codes in use."""
    share = np.bincount(codes.ravel()) / codes.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum()) + 0.0
