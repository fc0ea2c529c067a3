"""Head importance score for pruning (HISP).

Michel et al. 2019 (arXiv 1905.10650), eq. 2, with the corrupt run in the place of zero, as Conmy et al. 2023 (ACDC,
arXiv 2304.14997, appendix D.2) compare with it:

    I(head) = (1/n) Σ_pairs |Σ_positions (z − z') · ∂m/∂z|,    divided by the L2 norm of I over the heads of its layer

It is attribution patching with the absolute value taken for every pair, and that norm.

When it misleads: the norm makes every layer weigh the same, so the least useless head of an idle layer scores as high
as the best of a busy one; a head that helps on some pairs and hurts on others counts fully. No score for MLPs: each
would be alone in its layer.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from interp.activations.stream import BATCH_SIZE, Consumer, Progress, feed
from interp.models import Model
from interp.prompts.pairs import PromptPairs
from interp.scores.attribution import AttributionConsumer
from interp.scores.result import Cost, Scores


@dataclass(frozen=True)
class HISPConfig:
    """
    Attributes:
        norm: divide by the layer's norm, as published.
        batch_size: pairs per forward.
    """

    norm: bool = True
    batch_size: int = BATCH_SIZE


def hisp(
    model: Model,
    pairs: PromptPairs,
    config: HISPConfig = HISPConfig(),
    *,
    consumers: Sequence[Consumer] = (),
    progress: Progress | None = None,
) -> Scores:
    """Score heads by HISP (module docstring).

    ``heads_per_pair`` is divided by the norm of all pairs together; :func:`by_layer_norm` of the mean of some of them
    is the score of those pairs alone.

    Args:
        consumers: fed by the same forward passes.
    """
    begin = time.perf_counter()
    scorer = AttributionConsumer(len(pairs))
    forwards = feed(model, pairs, [scorer, *consumers], batch_size=config.batch_size, progress=progress)
    per_pair = np.abs(scorer.heads_)
    if config.norm:
        per_pair = per_pair / _norms(per_pair.mean(0))
    return Scores(
        method="hisp",
        heads=per_pair.mean(0),
        heads_per_pair=per_pair,
        signed=False,
        cost=Cost(forwards, {"hisp": time.perf_counter() - begin}),
        config=asdict(config),
        metric_clean=scorer.metric_[0],
        metric_corrupt=scorer.metric_[1],
        provenance=pairs.provenance(),
    )


def by_layer_norm(heads: Float[np.ndarray, "layer head"]) -> Float[np.ndarray, "layer head"]:
    """Scores divided by the L2 norm over each layer's heads; a layer of zeros stays."""
    return heads / _norms(heads)


def _norms(heads: Float[np.ndarray, "layer head"]) -> Float[np.ndarray, "layer 1"]:
    norms = np.linalg.norm(heads, axis=1, keepdims=True)
    return np.where(norms > 0, norms, 1.0)
