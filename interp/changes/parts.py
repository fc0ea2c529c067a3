"""Which heads and MLPs carry what changed: the tuned model's outputs put into the base, and the other way about.

Sites are ranked by gradient, and the best are measured, alone and together. The metric is the KL between
what the two models say next, in the contexts given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.interventions.between_models import Outputs, kl_between, patched_log_p
from interp.models import Model, Site
from interp.models.sites import components
from interp.progress import Stage, silent

MEASURED = 10
TOGETHER = (1, 2, 3, 5, 10)  # so many sites are also put in at once


@dataclass(frozen=True)
class ChangedSite:
    """A head or MLP."""

    site: str
    kl_share: float  # of the KL, what goes from the base when the tuned model's output stands there
    undone: float  # of the KL, what goes from the tuned model when the base's output stands there
    estimate: float  # of `kl_share`, by gradient


@dataclass(frozen=True)
class Together:
    """The first sites at once; ``last`` puts them in at the last token alone, ``before`` at all others."""

    sites: int
    kl_share: float
    undone: float
    last: float
    before: float


def measure_parts(
    base: Model, tuned: Model, tokens: Int[Tensor, "context pos"], *, stage: Stage = silent
) -> tuple[list[ChangedSite], list[Together]]:
    """The sites that carry most of the KL between two models in contexts of equal length, by falling share."""
    sites = components(base, mlps=True)
    sides = {"base": Outputs(base, tokens, sites), "tuned": Outputs(tuned, tokens, sites)}
    says = {"tuned": sides["tuned"].read()}
    says["base"] = sides["base"].read(says["tuned"])
    whole = kl_between(says["tuned"], says["base"])

    def change(site: Site) -> float:
        head = (slice(None), slice(None), slice(None) if site.head is None else site.head)
        difference = sides["tuned"].outputs[site.hook][head] - sides["base"].outputs[site.hook][head]
        return -float((difference * sides["base"].gradients[site.hook][head]).sum())

    estimates = np.array([change(site) for site in sites]) / (whole * len(tokens))
    best = [sites[i] for i in np.argsort(-estimates, kind="stable")[:MEASURED]]
    sizes = [size for size in TOGETHER if size < MEASURED] + [len(best)]
    with torch.no_grad(), stage("patching", 2 * len(best) + 4 * len(sizes)) as done:

        def left(into: str, chosen: Sequence[Site], positions: slice = slice(None)) -> float:
            """Share of the KL that goes when the other model's outputs stand at these sites."""
            done(1)
            other = "tuned" if into == "base" else "base"
            patched = patched_log_p(sides[into].model, sides[other], chosen, positions)
            rest = kl_between(says["tuned"], patched) if into == "base" else kl_between(patched, says["base"])
            return 1 - rest / whole

        alone = [(left("base", [site]), left("tuned", [site]), float(estimates[sites.index(site)])) for site in best]
        order = sorted(range(len(best)), key=lambda i: -alone[i][0])
        parts = [ChangedSite(str(best[i]), *alone[i]) for i in order]
        ranked = [best[i] for i in order]
        together = [
            Together(
                len(first),
                *(left(into, first) for into in ("base", "tuned")),
                *(left("base", first, positions) for positions in (slice(-1, None), slice(0, -1))),
            )
            for first in (ranked[:size] for size in sizes)
        ]
    return parts, together
