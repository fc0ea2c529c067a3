"""Head importance score for pruning (HISP).

Michel et al. 2019 (arXiv 1905.10650), eq. 2, with the corrupt run in the place of zero, as Conmy et al. 2023 (ACDC,
arXiv 2304.14997, appendix D.2) compare with it:

    I(head) = (1/n) Σ_pairs |Σ_positions (z − z') · ∂m/∂z|,    divided by the L2 norm of I over the heads of its layer

It is attribution patching with the absolute value taken for every pair, and that norm.

When it misleads: the norm makes every layer weigh the same, so the least useless head of an idle layer scores as high
as the best of a busy one; a head that helps on some pairs and hurts on others counts fully. No score for MLPs: each
would be alone in its layer.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.scores.attribution import AttributionConsumer
from interp.scores.method import Context, MethodConfig, Rank, method
from interp.scores.result import Scores


@dataclass(frozen=True)
class HISPConfig(MethodConfig):
    norm: bool = True  # divide by the layer's norm, as published


def _sizes(context: Context) -> Float[np.ndarray, "pair layer head"]:
    scorer = AttributionConsumer(len(context.pairs))
    context.run(scorer)
    return np.abs(scorer.heads_)


def _subsets(context: Context) -> Rank:
    sizes = _sizes(context)

    def rank(indices: list[int], config: HISPConfig) -> tuple[np.ndarray, float]:
        mean = sizes[indices].mean(0)
        return mean / layer_norms(mean) if config.norm else mean, 0.0

    return rank


@method(config=HISPConfig, subsets=_subsets, scores_mlps=False)
def hisp(context: Context) -> Scores:
    """Score heads by HISP (module docstring); ``heads_per_pair`` is divided by the norm of all pairs together."""
    per_pair = _sizes(context)
    if context.config.norm:
        per_pair = per_pair / layer_norms(per_pair.mean(0))
    return Scores.from_pairs(per_pair, signed=False)


def layer_norms(heads: Float[np.ndarray, "layer head"]) -> Float[np.ndarray, "layer 1"]:
    """L2 norm over each layer's heads; a layer of zeros stays as it is."""
    norms = np.linalg.norm(heads, axis=1, keepdims=True)
    return np.where(norms > 0, norms, 1.0)
