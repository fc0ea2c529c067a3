"""Rankings that look at nothing: what any method has to beat.

``random``: the sizes of independent normal numbers from a seed; over many seeds ROC AUC is .5 with the spread that
chance allows.
``layer-index``: the layer's number, so late heads first; it shows how much of an AUC is knowing the depth.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from interp.scores.method import Context, MethodConfig, method
from interp.scores.result import Scores, layer_prior


@dataclass(frozen=True)
class RandomConfig(MethodConfig):
    seed: Annotated[int, Ge(0)] = 0  # of the scores


@method(config=RandomConfig, scores_mlps=False)
def random(context: Context) -> Scores:
    """Score heads at random."""
    cfg = context.model.cfg
    rng = np.random.default_rng(context.config.seed)
    return Scores(np.abs(rng.standard_normal((cfg.n_layers, cfg.n_heads))), signed=False)


@method(scores_mlps=False)
def layer_index(context: Context) -> Scores:
    """Score heads by their layer's number."""
    cfg = context.model.cfg
    return Scores(layer_prior(cfg.n_layers, cfg.n_heads), signed=False)
