"""Does steering bring up a topic, and is it better than its controls at the same cost in fluency?

Every arm is run over a range of doses, because a rate says nothing without what it costs: texts are also judged by
their perplexity under the model *without* steering, and arms are compared where it is equal (:func:`at_perplexity`).

==========================  ================================================================  ============
arm                         what is done                                                      dose
==========================  ================================================================  ============
base                        nothing
codes                       the codes found from the topic's texts are set                    heads
codes added                 how they differ from their books' means is added                  scale
wrong topic                 the codes of the next topic are set                               heads
random codes                other codes of the same heads are set                             heads
random vectors              vectors of random direction at the same heads, each as long as    heads
                            the code's distance from the head's mean
mean difference, heads      difference of the means over positive and negative texts is       scale
                            added at the same heads
mean difference, residual   the same in the residual stream after one layer                   scale
==========================  ================================================================  ============

All arms act at the same positions with the same seeds. Means see all texts, codes are chosen by half of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.evaluation.steering_vectors import SiteMeans, book_of, vector_books
from interp.intervals import wilson
from interp.models import Model
from interp.steering import AddCode, CodeEdit, SetCode, Topic, steer
from interp.steering.continuations import Continuation, continue_prompts
from interp.steering.find import FoundCodes
from interp.tasks.errors import InputError

ARMS = (
    "base",
    "codes",
    "codes added",
    "wrong topic",
    "random codes",
    "random vectors",
    "mean difference, heads",
    "mean difference, residual",
)
HEADS = (20, 40, 80, 120)
SCALES = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class SteeringConfig:
    """
    Attributes:
        n: texts per arm and dose; prompts are taken in turn.
        n_tokens: new tokens per text.
        heads: doses of arms that act on heads, in heads (or other sites), best first.
        scales: doses of the mean differences.
        vector_heads: heads of the arms ``codes added`` and ``mean difference, heads``.
        layer: of the residual stream; None for the middle one.
        share: of the generated tokens at which every arm acts.
        batch_size: texts per generation.
    """

    n: int = 200
    n_tokens: int = 60
    heads: tuple[int, ...] = HEADS
    scales: tuple[float, ...] = SCALES
    vector_heads: int = 80
    layer: int | None = None
    share: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 50

    def __post_init__(self) -> None:
        for name in ("n", "n_tokens", "vector_heads", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it must be at least 1")
        if not self.heads or min(self.heads) < 1 or not self.scales:
            raise InputError(f"doses {self.heads} and {self.scales}: give at least one head and one scale")


@dataclass(frozen=True)
class Cell:
    """One arm at one dose.

    Attributes:
        topic: whose codes or means; None for the base.
        hits: texts that hold a word of each topic.
        perplexity: exp of the mean surprise of all new tokens under the model without steering.
        distinct_2: share of different pairs of neighbouring words among all of them.
    """

    arm: str
    topic: str | None
    dose: float | int
    n: int
    hits: Mapping[str, int]
    perplexity: float
    distinct_2: float
    example: str

    def rate(self, topic: str) -> float:
        return self.hits[topic] / self.n

    def interval(self, topic: str) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate."""
        return wilson(self.hits[topic], self.n)

    def to_json(self) -> dict:
        return asdict(self)


def plan_arms(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    found: FoundCodes,
    means: SiteMeans,
    config: SteeringConfig,
) -> Iterator[tuple[str, float, dict[str, Bottleneck], list[CodeEdit]]]:
    """(arm, dose, codebooks, edits) of every cell of a topic, but for the base and the wrong topic: the latter are
    the cells of another topic's codes."""
    generator = torch.Generator().manual_seed(config.seed)
    books = dict(codebooks)
    doses = sorted({min(n, len(found)) for n in config.heads})
    every = found.sets(doses[-1])
    n_codes = {edit.site: book_of(codebooks, edit.site).config.n_codes for edit in every}
    others = [SetCode(edit.site, _another(edit.code, n_codes[edit.site], generator)) for edit in every]
    random = {edit.site: _random_direction(means.distance(codebooks, edit), generator) for edit in every}
    random_books = vector_books(model, random)
    for n in doses:
        sites = [edit.site for edit in every[:n]]
        yield "codes", n, books, list(every[:n])
        yield "random codes", n, books, list(others[:n])
        yield "random vectors", n, random_books, [AddCode(site, 0) for site in sites]
    n = min(config.vector_heads, len(found))
    sites = [edit.site for edit in found.sets(n)]
    at_heads = vector_books(model, {site: means.difference(site) for site in sites})
    layer = model.cfg.n_layers // 2 if config.layer is None else config.layer
    residual = vector_books(model, {f"r{layer}": means.difference(f"r{layer}")})
    for scale in config.scales:
        yield "codes added", scale, books, found.adds(n, scale=scale)
        yield "mean difference, heads", scale, at_heads, [AddCode(site, 0, scale) for site in sites]
        yield "mean difference, residual", scale, residual, [AddCode(f"r{layer}", 0, scale)]


def measure(
    model: Model,
    topics: Sequence[Topic],
    config: SteeringConfig,
    arm: str = "base",
    topic: str | None = None,
    dose: float | int = 0,
    codebooks: Mapping[str, Bottleneck] | None = None,
    edits: Sequence[CodeEdit] = (),
) -> Cell:
    """Generate the texts of one arm at one dose, and count the words of every topic in them."""
    prompts = [topics[0].prompts[i % len(topics[0].prompts)] for i in range(config.n)]
    written: list[Continuation] = []
    for begin in range(0, config.n, config.batch_size):
        within = steer(model, codebooks, edits, share=config.share, seed=config.seed) if edits else None
        written += continue_prompts(
            model,
            prompts[begin : begin + config.batch_size],
            config.n_tokens,
            within=within,
            temperature=config.temperature,
            seed=config.seed + begin,
        )
    return Cell(
        arm,
        topic,
        dose,
        n=config.n,
        hits={t.name: sum(t.is_in(text.text) for text in written) for t in topics},
        perplexity=float(np.exp(np.concatenate([text.surprise for text in written]).mean())),
        distinct_2=distinct_2([text.text for text in written]),
        example=written[0].prompt + written[0].text,
    )


def distinct_2(texts: Sequence[str]) -> float:
    """Different pairs of neighbouring words / all pairs (Li et al. 2016, arXiv 1510.03055): low where texts repeat.

    It falls with the number of texts: compare it between equal numbers only.
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


@dataclass(frozen=True)
class Matched:
    """A rate at a given perplexity, read off between two doses; the interval is read off the same way."""

    rate: float
    low: float
    high: float


def at_perplexity(cells: Sequence[Cell], base: Cell, topic: str, perplexity: float) -> Matched | None:
    """The rate of an arm where its texts have this perplexity: linear in log perplexity between neighbouring doses,
    the base being dose 0.

    Of several crossings the one of the highest rate counts. None if no dose reaches the perplexity: the arm then
    reaches its best rate more cheaply, or was not run far enough.
    """
    path = [base, *sorted(cells, key=lambda cell: cell.dose)]
    target, found = np.log(perplexity), []
    for first, second in pairwise(path):
        low, high = np.log(first.perplexity), np.log(second.perplexity)
        if min(low, high) <= target <= max(low, high):
            weight = 0.5 if high == low else (target - low) / (high - low)
            ends = [np.array([cell.rate(topic), *cell.interval(topic)]) for cell in (first, second)]
            found.append(Matched(*((1 - weight) * ends[0] + weight * ends[1]).tolist()))
    return max(found, key=lambda matched: matched.rate) if found else None


def _random_direction(length: Float[Tensor, " d_in"], generator: torch.Generator) -> Float[Tensor, " d_in"]:
    """A vector as long as this one in a random direction."""
    drawn = torch.randn(len(length), generator=generator)
    return drawn * (length.norm() / drawn.norm())


def _another(code: int, n_codes: int, generator: torch.Generator) -> int:
    """A random code that is not this one."""
    return (code + 1 + int(torch.randint(n_codes - 1, (1,), generator=generator))) % n_codes
