"""What steering by codes is compared with.

==================================  =============================================================================
arm                                 what is done
==================================  =============================================================================
base                                nothing
codes                               the codes found from the topic's texts are added, with their weights
wrong topic                         the cell ``codes`` of the next topic, counted for this one's words
mean difference, residual           difference of the means over positive and negative texts, after one layer
mean difference, heads              the same at all heads at which it raises the target's log p to first order
mean difference, same heads         the same at the heads of ``codes``
random codes                        other codes of the same heads with the same weights
random vectors                      vectors of random direction at the same heads, each as long as what ``codes`` adds
==================================  =============================================================================

The dose is a factor of all that is added. All arms act at the same positions with the same seeds. Means and codes are
of the same texts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.evaluation.steering_vectors import SiteMeans, from_mean, vector_books
from interp.models import Model
from interp.steering import AddCode, steer
from interp.steering.controls import random_codes
from interp.steering.edits import WeightedCode, code_edits
from interp.steering.found import SCALE, FoundCodes

WRONG = "wrong topic"
ARMS = (
    "codes",
    "mean difference, residual",
    "mean difference, heads",
    "mean difference, same heads",
    "random codes",
    "random vectors",
)
"""Those that are run for every topic."""
VECTORS = ("mean difference, residual", "mean difference, heads")
"""Those that no codebook has a part in."""
BLIND = ("mean difference, residual",)
"""Those that do not depend on how codes, or the target, are found."""
RANDOM_DOSE = 6.0
"""Tried first for random vectors: they cost little for their length."""


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


def plan_arms(
    model: Model,
    codebooks: Mapping[str, Bottleneck],
    found: FoundCodes,
    means: SiteMeans,
    gains_of: Callable[[], Mapping[str, Tensor]],
    *,
    layer: str,
    seed: int,
) -> tuple[Arm, ...]:
    """The arms of a topic, in the order of :data:`ARMS`.

    Args:
        found: by difference.
        gains_of: the gains of the heads' codebooks' sites (:func:`~interp.steering.gains.read_gains`), from the texts
            that the means are of.
        layer: of the residual stream, such as ``r15``.
    """
    codes = found.named(len(found), "added")
    others = random_codes(model, codebooks, codes, seed=seed)
    added: dict[str, Tensor] = {}
    for site, code, weight in codes:
        added[site] = added.get(site, 0) + weight * from_mean(codebooks, site, code)
    generator = torch.Generator().manual_seed(seed)
    random = {site: _random_direction(vector, generator) for site, vector in added.items()}

    def adding(chosen: Sequence[WeightedCode]):
        return lambda scale: steer(model, codebooks, code_edits(chosen, add=scale), seed=seed)

    def vectors(at_sites: Callable[[], Mapping[str, Tensor]]):
        once = cache(at_sites)  # some take gradients, and a run that goes on may not need them

        def at(scale: float) -> AbstractContextManager:
            edits = [AddCode(site, 0, scale) for site in once()]
            return steer(model, vector_books(model, once()), edits, seed=seed)

        return at

    return (
        Arm("codes", adding(codes), SCALE),
        Arm("mean difference, residual", vectors(lambda: {layer: means.difference(layer)}), 2.0),
        Arm("mean difference, heads", vectors(lambda: _helpful(model, means, gains_of())), 1.0),
        Arm(
            "mean difference, same heads",
            vectors(lambda: {site: means.difference(site) for site in added}),
            SCALE,
        ),
        Arm("random codes", adding(others), SCALE),
        Arm("random vectors", vectors(lambda: random), RANDOM_DOSE),
    )


def _helpful(
    model: Model, means: SiteMeans, gains: Mapping[str, Float[Tensor, "head d_head"]]
) -> dict[str, Float[Tensor, " d_head"]]:
    """Differences of means of the heads at which adding them raises the target, to first order."""
    at = [(f"{layer}.h{head}", gains[layer][head]) for layer in gains for head in range(model.cfg.n_heads)]
    return {site: means.difference(site) for site, gain in at if means.difference(site) @ gain > 0}


def _random_direction(length: Float[Tensor, " d_in"], generator: torch.Generator) -> Float[Tensor, " d_in"]:
    """A vector as long as this one in a random direction."""
    drawn = torch.randn(len(length), generator=generator)
    return drawn * (length.norm() / drawn.norm())
