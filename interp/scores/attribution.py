"""Attribution patching of heads and MLPs: the gradient's estimate of activation patching, from one backward pass.

Nanda 2023; Syed et al. 2023 (arXiv 2310.10348) for edges; "NAP" in Mueller et al. 2025 (MIB, arXiv 2504.13151).

1. Run the corrupt and the clean prompts, keeping every head's z and every MLP's output.
2. Take the gradient of the metric on the clean prompts with respect to all of them, in one backward pass.
3. score(u) = Σ_positions (z_u − z'_u) · ∂m/∂z_u — to first order the fall of the metric when u's clean output is
   replaced by its corrupt one. Summed over positions before anything else, so opposite positions cancel.

When it misleads: saturated attention or probabilities have small gradients however much hangs on them, and a head
whose backup takes over keeps its gradient although removing it alone costs nothing. Leaves are *not* cut at every
layer, so effects through later heads count: an inhibition head is seen although it never writes to the answer.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from interp.activations.stream import BATCH_SIZE, Consumer, PairBatch, Progress, feed
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.scores.result import Cost, Scores


@dataclass(frozen=True)
class AttributionConfig:
    """Attribution patching has no knobs beyond the batch size."""

    batch_size: int = BATCH_SIZE


class AttributionConsumer:
    """Reduces batches to one score per pair and component."""

    needs_gradients = True
    needs_patterns = False

    def __init__(self, n_pairs: int) -> None:
        self.n_pairs = n_pairs
        self.heads_: np.ndarray | None = None
        self.mlps_: np.ndarray | None = None
        self.metric_ = np.zeros((2, n_pairs))

    def update(self, batch: PairBatch) -> None:
        rows = list(batch.indices)
        heads = [
            ((clean - corrupt) * gradient).float().sum((1, 3)).cpu().numpy()
            for clean, corrupt, gradient in zip(batch.clean.z, batch.corrupt.z, batch.z_gradient, strict=True)
        ]
        mlps = [
            ((clean - corrupt) * gradient).float().sum((1, 2)).cpu().numpy()
            for clean, corrupt, gradient in zip(
                batch.clean.mlp, batch.corrupt.mlp, batch.mlp_gradient, strict=True
            )
        ]
        if self.heads_ is None:
            self.heads_ = np.zeros((self.n_pairs, len(heads), heads[0].shape[1]))
            self.mlps_ = np.zeros((self.n_pairs, len(mlps))) if mlps else None
        self.heads_[rows] = np.stack(heads, axis=1)
        if self.mlps_ is not None:
            self.mlps_[rows] = np.stack(mlps, axis=1)
        self.metric_[0, rows] = batch.clean.metric.cpu().numpy()
        self.metric_[1, rows] = batch.corrupt.metric.cpu().numpy()


def attribution(
    model: Model,
    pairs: PromptPairs,
    config: AttributionConfig = AttributionConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads and MLPs by attribution patching (module docstring).

    Args:
        consumers: fed by the same forward passes.
    """
    begin = time.perf_counter()
    scorer = AttributionConsumer(len(pairs))
    forwards = feed(model, pairs, [scorer, *consumers], batch_size=config.batch_size, progress=progress)
    return Scores(
        method="attribution",
        heads=scorer.heads_.mean(0),
        heads_per_pair=scorer.heads_,
        mlps=None if scorer.mlps_ is None else scorer.mlps_.mean(0),
        mlps_per_pair=scorer.mlps_,
        signed=True,
        cost=Cost(forwards, {"attribution": time.perf_counter() - begin}),
        config=asdict(config),
        metric_clean=scorer.metric_[0],
        metric_corrupt=scorer.metric_[1],
        provenance=pairs.provenance(),
    )
