"""The metric of circuits that are all known at once."""

import numpy as np

from interp.evaluation.ablation import BATCH_SIZE, Ablator
from interp.models import Model
from interp.prompts.pairs import PromptPairs


def ablated_metric(
    model: Model,
    pairs: PromptPairs,
    keep: np.ndarray,
    kind: str = "resample",
    *,
    keep_mlps: np.ndarray | None = None,
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    return Ablator(model, pairs, kind, batch_size=batch_size).metric(keep, keep_mlps)
