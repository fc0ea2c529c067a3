"""Does steering bring up a topic, and is it better than its controls at the same cost in fluency?

A rate says nothing without what it costs: every arm gets to 100 % by writing the word and nothing else. So each arm's
dose is first sought, on texts of its own, at which texts are just as fluent as is asked for (:func:`strain`): their
perplexity under the model *without* steering is at most a multiple of the base's, **and** they have at least a share of
the base's different pairs of words. Perplexity alone would not do: a word repeated to the end is hardly surprising.

==================================  =============================================================================
arm                                 what is done
==================================  =============================================================================
base                                nothing
codes                               how the codes found from the topic's texts differ from their books' means is added
wrong topic                         the cell ``codes`` of the next topic, counted for this one's words
random codes                        other codes of the same heads, as ``codes``
random vectors                      vectors of random direction at the same heads, each as long as what ``codes`` adds
mean difference, residual           difference of the means over positive and negative texts, after one layer
mean difference, heads              the same at all heads at which it raises the target's log p to first order
mean difference, dosed              the same, each head's dose by the natural gradient, as codes are chosen
==================================  =============================================================================

The dose is a factor of all that is added. All arms act at the same positions with the same seeds. Means see all texts,
codes are chosen by half of them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.circuits.choose import mean_interval
from interp.evaluation.steering_vectors import SiteMeans, from_mean, vector_books
from interp.intervals import wilson
from interp.models import Model
from interp.steering import AddCode, Topic, steer
from interp.steering.continuations import Continuation, continue_prompts
from interp.steering.controls import random_codes
from interp.steering.edits import code_edits
from interp.steering.find import NATS, RIDGE, SCALE, STEP, FoundCodes
from interp.steering.pulls import SAMPLES, Pull
from interp.tasks.errors import InputError

BASE, WRONG = "base", "wrong topic"
ARMS = (
    "codes",
    "mean difference, residual",
    "mean difference, heads",
    "random codes",
    "random vectors",
    "mean difference, dosed",
)
"""Those that are run for every topic."""
_NEAR = 0.1
"""How far from 1 the strain of a dose may be."""


@dataclass(frozen=True)
class SteeringConfig:
    """
    Attributes:
        n: texts per arm; prompts are taken in turn.
        n_tokens: new tokens per text.
        times: the perplexity of texts, at most, as a multiple of the base's.
        variety: their distinct-2, at least, as a share of the base's.
        tries: doses tried, at most, on as many texts as there are prompts.
        layer: of the residual stream; None for the middle one.
        batch_size: texts per generation.
    """

    n: int = 200
    n_tokens: int = 60
    times: float = 2.0
    variety: float = 0.75
    tries: int = 4
    layer: int | None = None
    temperature: float = 0.7
    seed: int = 0
    batch_size: int = 50

    def __post_init__(self) -> None:
        for name in ("n", "n_tokens", "tries", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it must be at least 1")
        if not self.times > 1:
            raise InputError(f"times {self.times}: steered texts are compared above the base's perplexity")
        if not 0 <= self.variety < 1:
            raise InputError(f"variety {self.variety}: steered texts have less than the base, 0 to below 1")


@dataclass(frozen=True)
class Arm:
    """
    Attributes:
        at: what the model runs within, at a dose.
        first: the dose to try first.
    """

    name: str
    at: Callable[[float], AbstractContextManager]
    first: float


@dataclass(frozen=True)
class Cell:
    """One arm at one dose.

    Attributes:
        topic: whose codes or means; None for the base.
        held: of each topic, which texts hold one of its words.
        perplexity: exp of the mean surprise of all new tokens under the model without steering.
        distinct_2: share of different pairs of neighbouring words among all of them.
        tried: doses and, on the texts by which the dose was found, perplexity and distinct-2; of the base its own.
    """

    arm: str
    topic: str | None
    dose: float
    held: Mapping[str, Sequence[bool]]
    perplexity: float
    distinct_2: float
    example: str
    tried: Sequence[Sequence[float]] = ()

    def rate(self, topic: str) -> float:
        return float(np.mean(self.held[topic]))

    def interval(self, topic: str) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate."""
        return wilson(sum(self.held[topic]), len(self.held[topic]))

    def to_json(self) -> dict:
        return asdict(self)


def plan_arms(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    found: FoundCodes,
    means: SiteMeans,
    pulls_of: Callable[[int], Mapping[str, Pull]],
    config: SteeringConfig,
) -> tuple[Arm, ...]:
    """The arms of a topic, in the order of :data:`ARMS`.

    Args:
        found: by gain.
        pulls_of: the pulls of the heads' codebooks' sites, from the texts that the means are of, with so many samples.
    """
    edits = found.adds(len(found), scale=1)
    codes = [(edit.site, edit.code) for edit in edits]
    others = random_codes(model, codebooks, codes, seed=config.seed)
    added: dict[str, Tensor] = {}
    for edit in edits:
        added[edit.site] = added.get(edit.site, 0) + from_mean(codebooks, edit.site, edit.code)
    generator = torch.Generator().manual_seed(config.seed)
    random = {site: _random_direction(vector, generator) for site, vector in added.items()}
    layer = f"r{model.cfg.n_layers // 2 if config.layer is None else config.layer}"

    def adding(chosen: Sequence[tuple[str, int]]):
        return lambda scale: steer(model, codebooks, code_edits(chosen, add=scale), seed=config.seed)

    def vectors(at_sites: Callable[[], Mapping[str, Tensor]]):
        def at(scale: float) -> AbstractContextManager:
            found = once()
            edits = [AddCode(site, 0, scale) for site in found]
            return steer(model, vector_books(model, found), edits, seed=config.seed)

        once = cache(at_sites)  # some take minutes, and a run that goes on may not need them
        return at

    return (
        Arm("codes", adding(codes), SCALE),
        Arm("mean difference, residual", vectors(lambda: {layer: means.difference(layer)}), 2.0),
        Arm("mean difference, heads", vectors(lambda: _helpful(model, means, pulls_of(0))), 1.0),
        Arm("random codes", adding(others), SCALE),
        Arm("random vectors", vectors(lambda: random), STEP),
        Arm("mean difference, dosed", vectors(lambda: _dosed(model, means, pulls_of(SAMPLES))), 0.5),
    )


def _helpful(
    model: Model, means: SiteMeans, pulls: Mapping[str, Pull]
) -> dict[str, Float[Tensor, " d_head"]]:
    """Differences of means of the heads at which adding them raises the target, to first order."""
    sites = (f"{layer}.h{head}" for layer in pulls for head in range(model.cfg.n_heads))
    differences = {site: means.difference(site) for site in sites}
    return {site: v for site, v in differences.items() if v @ _pull_of(pulls, site).gain[0] > 0}


def _dosed(model: Model, means: SiteMeans, pulls: Mapping[str, Pull]) -> dict[str, Float[Tensor, " d_head"]]:
    """The same times the doses d ≥ 0 that raise the target most for their KL of :data:`NATS` to second order."""
    differences = _helpful(model, means, pulls)
    at = {site: _pull_of(pulls, site) for site in differences}
    gains = np.array([float(v @ at[site].gain[0]) for site, v in differences.items()])
    moves = np.stack([(at[site].scores[:, 0] @ v).numpy() for site, v in differences.items()], 1).astype(
        float
    )
    information = moves.T @ moves
    information += RIDGE * np.diag(np.diag(information))
    # max ⟨gains, d⟩ − ½ dᵀ K d over d ≥ 0, with K = L Lᵀ: min ‖Lᵀ d − L⁻¹ gains‖
    lower = np.linalg.cholesky(information)
    doses, _ = nnls(lower.T, np.linalg.solve(lower, gains), maxiter=30 * len(gains))
    doses *= np.sqrt(2 * NATS / (doses @ information @ doses))
    return {site: float(d) * v for d, (site, v) in zip(doses, differences.items(), strict=True) if d > 0}


def _pull_of(pulls: Mapping[str, Pull], site: str) -> Pull:
    """Of one head, as a group of one."""
    layer, _, head = site.partition(".h")
    one = slice(int(head), int(head) + 1)
    return Pull(pulls[layer].gain[one], pulls[layer].scores[:, one])


def strain(perplexity: float, distinct_2: float, base: tuple[float, float], config: SteeringConfig) -> float:
    """How far texts are from the base's fluency to the least that is asked for: 0 as fluent as the base, 1 just at it.

    Args:
        base: its perplexity and distinct-2, on as many texts.
    """
    surprise = float(np.log(perplexity / base[0]) / np.log(config.times))
    return max(surprise, (1 - distinct_2 / base[1]) / (1 - config.variety))


def find_dose(strain_at: Callable[[float], float], first: float, tries: int) -> float:
    """The dose tried whose strain comes nearest to 1.

    Between a dose below and one above (0 has no strain) the next is by straight line; while all are below, twice the
    largest.
    """
    off: dict[float, float] = {0.0: -1.0}
    dose = first
    while True:
        off[dose] = strain_at(dose) - 1
        best = min((d for d in off if d > 0), key=lambda d: abs(off[d]))
        if len(off) > tries or abs(off[best]) <= _NEAR:
            return best
        above = min((d for d in off if off[d] > 0), default=None)
        below = max(d for d in off if off[d] <= 0 and (above is None or d < above))
        if above is None:
            dose = 2 * below
        else:
            # not quite to the ends, which are known already
            share = np.clip(off[below] / (off[below] - off[above]), 0.1, 0.9)
            dose = float(below + share * (above - below))


def write(
    model: Model,
    prompts: Sequence[str],
    n: int,
    config: SteeringConfig,
    within: Callable[[], AbstractContextManager] | None = None,
    seed: int = 0,
) -> list[Continuation]:
    """``n`` texts that go on from the prompts in turn."""
    given = [prompts[i % len(prompts)] for i in range(n)]
    written: list[Continuation] = []
    for begin in range(0, n, config.batch_size):
        written += continue_prompts(
            model,
            given[begin : begin + config.batch_size],
            config.n_tokens,
            within=within() if within else None,
            temperature=config.temperature,
            seed=seed + begin,
        )
    return written


def measure(
    model: Model,
    topics: Sequence[Topic],
    config: SteeringConfig,
    *,
    arm: Arm | None = None,
    topic: str | None = None,
    base: Cell | None = None,
) -> Cell:
    """Find an arm's dose, generate its texts, and count the words of every topic in them.

    Args:
        topics: whose words are counted; the prompts are those of the first.
        arm: None for the base.
        topic: whose arm it is.
        base: with which an arm is compared.
    """
    prompts, tried = topics[0].prompts, []

    def fluency(dose: float) -> tuple[float, float]:
        # texts by which a dose was chosen would flatter it
        apart = config.seed + config.n + 1
        texts = write(model, prompts, len(prompts), config, arm and (lambda: arm.at(dose)), apart)
        tried.append((dose, perplexity(texts), distinct_2([text.text for text in texts])))
        return tried[-1][1:]

    dose = 0.0
    if arm is None:
        fluency(dose)
    else:
        known = tuple(base.tried[0][1:])
        dose = find_dose(lambda dose: strain(*fluency(dose), known, config), arm.first, config.tries)
    written = write(model, prompts, config.n, config, arm and (lambda: arm.at(dose)), config.seed)
    return Cell(
        BASE if arm is None else arm.name,
        topic,
        dose,
        {t.name: [t.is_in(text.text) for text in written] for t in topics},
        perplexity(written),
        distinct_2([text.text for text in written]),
        written[0].prompt + written[0].text,
        tried,
    )


def perplexity(texts: Sequence[Continuation]) -> float:
    """exp of the mean surprise of all new tokens."""
    return float(np.exp(np.concatenate([text.surprise for text in texts]).mean()))


def distinct_2(texts: Sequence[str]) -> float:
    """Different pairs of neighbouring words / all pairs (Li et al. 2016, arXiv 1510.03055): low where texts repeat.

    It falls with the number of texts: compare it between equal numbers only.
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


@dataclass(frozen=True)
class MeanRate:
    """Over topics, with a 95 % bootstrap interval over prompts."""

    rate: float
    low: float
    high: float


def mean_rate(
    cells: Sequence[tuple[Cell, str]], n_prompts: int, less: Sequence[tuple[Cell, str]] = (), seed: int = 0
) -> MeanRate:
    """The mean over topics of the rate, or of how much it is above another arm's, text by text.

    Args:
        cells: of each topic the arm's cell, and the topic whose words count.
        n_prompts: prompts that were taken in turn; all texts of one are resampled together.
        less: of the same topics.
    """
    held = np.mean([cell.held[topic] for cell, topic in cells], axis=0)
    if less:
        held = held - np.mean([cell.held[topic] for cell, topic in less], axis=0)
    n_prompts = min(n_prompts, len(held))
    by_prompt = np.array([held[i::n_prompts].mean() for i in range(n_prompts)])
    low, high = mean_interval(by_prompt[:, None], seed)
    return MeanRate(float(held.mean()), float(low[0]), float(high[0]))


def _random_direction(length: Float[Tensor, " d_in"], generator: torch.Generator) -> Float[Tensor, " d_in"]:
    """A vector as long as this one in a random direction."""
    drawn = torch.randn(len(length), generator=generator)
    return drawn * (length.norm() / drawn.norm())
