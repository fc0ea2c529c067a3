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

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from interp.activations.stream import Consumer, PairBatch
from interp.scores.method import Context, method
from interp.scores.result import Scores


class AttributionConsumer(Consumer):
    """Reduces batches to one score per pair and component: ``heads_`` [pair, layer, head], and ``mlps_`` [pair, layer],
    ``None`` for attention-only models."""

    needs_gradients = True

    def __init__(self, n_pairs: int) -> None:
        self.n_pairs = n_pairs
        self.heads_: np.ndarray
        self.mlps_: np.ndarray | None

    def update(self, batch: PairBatch) -> None:
        rows, clean, corrupt = list(batch.indices), batch.clean, batch.corrupt
        heads = _products(clean.z, corrupt.z, batch.z_gradient)
        mlps = _products(clean.mlp, corrupt.mlp, batch.mlp_gradient)
        if not hasattr(self, "heads_"):
            self.heads_ = np.zeros((self.n_pairs, len(heads), heads[0].shape[1]))
            self.mlps_ = np.zeros((self.n_pairs, len(mlps))) if mlps else None
        self.heads_[rows] = np.stack(heads, axis=1)
        if self.mlps_ is not None:
            self.mlps_[rows] = np.stack(mlps, axis=1)


def _products(*parts: Sequence[Tensor]) -> list[np.ndarray]:
    """Σ over positions and channels of (clean − corrupt) · gradient, layer by layer."""
    layers = zip(*parts, strict=True)
    return [((a - b) * gradient).float().sum((1, -1)).cpu().numpy() for a, b, gradient in layers]


@method()
def attribution(context: Context) -> Scores:
    """Score heads and MLPs by attribution patching (module docstring)."""
    scorer = AttributionConsumer(len(context.pairs))
    context.run(scorer)
    return Scores.from_pairs(scorer.heads_, scorer.mlps_)
