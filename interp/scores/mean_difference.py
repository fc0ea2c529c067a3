"""Norm of the difference of mean head outputs between clean and corrupt prompts: the baseline without gradients.

    score(head) = ‖ (mean over pairs and positions of z − the same of z') W_O ‖

When it misleads: it is what changes, not what matters. A head that moves the very information that the task needs to
a place where nothing reads it scores as high as the head that answers; what differs in direction from pair to pair
averages away.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.means import HeadMeans, output_weights
from interp.scores.method import Context, MethodConfig, Rank, method
from interp.scores.result import Scores


def _means(context: Context) -> HeadMeans:
    means = HeadMeans(context.pairs)
    context.run(means)
    return means


def _subsets(context: Context) -> Rank:
    means, weights = _means(context), output_weights(context.model)

    def rank(indices: list[int], _config: MethodConfig) -> tuple[np.ndarray, float]:
        return mean_difference_norm(means.subset(indices).z_, weights), 0.0

    return rank


@method(subsets=_subsets, scores_mlps=False)
def mean_difference(context: Context) -> Scores:
    """Score heads by how far their mean output moves (module docstring)."""
    heads = mean_difference_norm(_means(context).z_, output_weights(context.model))
    return Scores(heads, signed=False)


def mean_difference_norm(
    z: Float[Tensor, "2 pair slot layer head d_head"], weights: Float[Tensor, "layer head d_head d_model"]
) -> Float[np.ndarray, "layer head"]:
    """The score from :class:`~interp.activations.means.HeadMeans` and W_O."""
    difference = (z[0] - z[1]).mean((0, 1))
    return torch.einsum("lhd,lhdm->lhm", difference, weights).norm(dim=-1).double().numpy()
