"""What steering by codes is compared with.

==================================  =============================================================================
arm                                 what is done
==================================  =============================================================================
base                                nothing
codes                               how the codes found from the topic's texts differ from their books' means is added
wrong topic                         the cell ``codes`` of the next topic, counted for this one's words
mean difference, residual           difference of the means over positive and negative texts, after one layer
mean difference, heads              the same at all heads at which it raises the target's log p to first order
mean difference, dosed              the same, each head's dose by the natural gradient, as codes are chosen
random codes                        other codes of the same heads, as ``codes``
random vectors                      vectors of random direction at the same heads, each as long as what ``codes`` adds
==================================  =============================================================================

The dose is a factor of all that is added. All arms act at the same positions with the same seeds. Means see all texts,
codes are chosen by half of them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.bottlenecks.base import Bottleneck
from interp.evaluation.steering_vectors import SiteMeans, from_mean, vector_books
from interp.models import Model
from interp.steering import AddCode, steer
from interp.steering.controls import random_codes
from interp.steering.edits import code_edits
from interp.steering.find import SCALE, FoundCodes
from interp.steering.natural_gradient import NATS, STEP, doses, information
from interp.steering.pulls import SAMPLES, Pull

WRONG = "wrong topic"
ARMS = (
    "codes",
    "mean difference, residual",
    "mean difference, heads",
    "mean difference, dosed",
    "random codes",
    "random vectors",
)
"""Those that are run for every topic."""
BLIND = ("mean difference, residual",)
"""Those that do not depend on how codes, or the target, are found."""


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
    pulls_of: Callable[[int], Mapping[str, Pull]],
    *,
    layer: str,
    seed: int,
) -> tuple[Arm, ...]:
    """The arms of a topic, in the order of :data:`ARMS`.

    Args:
        found: by gain.
        pulls_of: the pulls of the heads' codebooks' sites, from the texts that the means are of, with so many samples.
        layer: of the residual stream, such as ``r15``.
    """
    edits = found.adds(len(found), scale=1)
    codes = [(edit.site, edit.code) for edit in edits]
    others = random_codes(model, codebooks, codes, seed=seed)
    added: dict[str, Tensor] = {}
    for edit in edits:
        added[edit.site] = added.get(edit.site, 0) + from_mean(codebooks, edit.site, edit.code)
    generator = torch.Generator().manual_seed(seed)
    random = {site: _random_direction(vector, generator) for site, vector in added.items()}

    def adding(chosen: Sequence[tuple[str, int]]):
        return lambda scale: steer(model, codebooks, code_edits(chosen, add=scale), seed=seed)

    def vectors(at_sites: Callable[[], Mapping[str, Tensor]]):
        once = cache(at_sites)  # some take minutes, and a run that goes on may not need them

        def at(scale: float) -> AbstractContextManager:
            edits = [AddCode(site, 0, scale) for site in once()]
            return steer(model, vector_books(model, once()), edits, seed=seed)

        return at

    return (
        Arm("codes", adding(codes), SCALE),
        Arm("mean difference, residual", vectors(lambda: {layer: means.difference(layer)}), 2.0),
        Arm("mean difference, heads", vectors(lambda: _helpful(model, means, pulls_of(0))), 1.0),
        Arm("mean difference, dosed", vectors(lambda: _dosed(model, means, pulls_of(SAMPLES))), 0.5),
        Arm("random codes", adding(others), SCALE),
        Arm("random vectors", vectors(lambda: random), STEP),
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
    moves = np.stack([(at[site].scores[:, 0] @ v).numpy() for site, v in differences.items()], 1)
    times = doses(gains, information(moves), nats=NATS)
    return {site: float(d) * v for d, (site, v) in zip(times, differences.items(), strict=True) if d > 0}


def _pull_of(pulls: Mapping[str, Pull], site: str) -> Pull:
    """Of one head, as a group of one."""
    layer, _, head = site.partition(".h")
    one = slice(int(head), int(head) + 1)
    return Pull(pulls[layer].gain[one], pulls[layer].scores[:, one])


def _random_direction(length: Float[Tensor, " d_in"], generator: torch.Generator) -> Float[Tensor, " d_in"]:
    """A vector as long as this one in a random direction."""
    drawn = torch.randn(len(length), generator=generator)
    return drawn * (length.norm() / drawn.norm())
