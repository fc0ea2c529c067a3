"""Norm of the difference of mean head outputs between clean and corrupt prompts: the baseline without gradients.

    score(head) = ‖ (mean over pairs and positions of z − the same of z') W_O ‖

When it misleads: it is what changes, not what matters. A head that moves the very information that the task needs to
a place where nothing reads it scores as high as the head that answers; what differs in direction from pair to pair
averages away.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.means import HeadMeans, output_weights
from interp.activations.stream import BATCH_SIZE, Consumer, MetricConsumer, Progress, feed
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.scores.result import Cost, Scores


@dataclass(frozen=True)
class MeanDifferenceConfig:
    """
    Attributes:
        batch_size: pairs per forward.
    """

    batch_size: int = BATCH_SIZE


def mean_difference(
    model: Model,
    pairs: PromptPairs,
    config: MeanDifferenceConfig = MeanDifferenceConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads by how far their mean output moves (module docstring).

    It scores the set of pairs as a whole; :func:`mean_difference_norm` scores any part of it from the same means.

    Args:
        consumers: fed by the same forward passes.
    """
    begin = time.perf_counter()
    means, metric = HeadMeans(pairs), MetricConsumer(len(pairs))
    forwards = feed(
        model, pairs, [means, metric, *consumers], batch_size=config.batch_size, progress=progress
    )
    return Scores(
        method="mean-difference",
        heads=mean_difference_norm(means.z_, output_weights(model)),
        signed=False,
        cost=Cost(forwards, {"mean-difference": time.perf_counter() - begin}),
        config=asdict(config),
        metric_clean=metric.metric_[0],
        metric_corrupt=metric.metric_[1],
        provenance=pairs.provenance(),
    )


def mean_difference_norm(
    z: Float[Tensor, "2 pair slot layer head d_head"], weights: Float[Tensor, "layer head d_head d_model"]
) -> Float[np.ndarray, "layer head"]:
    """The score from :class:`~interp.activations.means.HeadMeans` and W_O."""
    difference = (z[0] - z[1]).mean((0, 1))
    return torch.einsum("lhd,lhdm->lhm", difference, weights).norm(dim=-1).double().numpy()
