"""Norm of the difference of mean head outputs between clean and corrupt prompts: the baseline without gradients.

    score(head) = ‖ (mean over pairs and positions of z − the same of z') W_O ‖

When it misleads: it is what changes, not what matters. A head that moves the very information that the task needs to
a place where nothing reads it scores as high as the head that answers; what differs in direction from pair to pair
averages away.
"""

import numpy as np
import torch

from interp.activations.means import HeadMeans, output_weights
from interp.scores.method import Context, MethodConfig, Rank, method
from interp.scores.result import Scores


def _subsets(context: Context) -> Rank:
    means, weights = HeadMeans(context.pairs), output_weights(context.model)
    context.run(means)

    def rank(indices: list[int], _config: MethodConfig) -> tuple[np.ndarray, float]:
        z = means.subset(indices).z_
        difference = (z[0] - z[1]).mean((0, 1))
        return torch.einsum("lhd,lhdm->lhm", difference, weights).norm(dim=-1).double().numpy(), 0.0

    return rank


@method(subsets=_subsets, scores_mlps=False)
def mean_difference(context: Context) -> Scores:
    """Score heads by how far their mean output moves (module docstring)."""
    heads, _ = _subsets(context)(list(range(len(context.pairs))), context.config)
    return Scores(heads, signed=False)
