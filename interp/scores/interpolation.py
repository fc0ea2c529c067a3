"""Forwards at points between the corrupt and the clean prompts, for integrated gradients.

The path's points are k = 1 … m of m, as in Hanna et al. 2024 (arXiv 2403.17806), eq. 3: the last is the clean prompt
itself, whose gradients the base run has; the corrupt end is left out. (Their released edge code takes k = 0 … m − 1,
the node code 1 … m.) It is a right-hand sum, whose error falls as 1/m.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import Hooks, PairBatch, end_logits
from interp.errors import InputError
from interp.models import Model
from interp.models.partial_forward import starting_at
from interp.prompts.pairs import Metric


def check_steps(steps: int) -> None:
    """Raise :class:`InputError` for a path without points."""
    if steps < 1:
        raise InputError(f"steps {steps}: at least 1, which is the gradient at the clean prompt alone")


def inner_points(clean: Tensor, corrupt: Tensor, steps: int) -> Iterator[Tensor]:
    """The points k = 1 … m − 1 from corrupt to clean, each a leaf at which a graph begins."""
    for step in range(1, steps):
        yield torch.lerp(corrupt.detach(), clean.detach(), step / steps).requires_grad_(True)


def clean_metric(
    model: Model,
    batch: PairBatch,
    metric: Metric,
    hooks: Hooks,
    *,
    layer: int = 0,
    resid_pre: Float[Tensor, "batch pos d_model"] | None = None,
) -> Float[Tensor, " batch"]:
    """Metric of the clean prompts under hooks, on its graph; from ``layer`` on where its input is given."""
    with torch.enable_grad():
        if not layer:
            return task_metric(end_logits(model, batch.clean.tokens, hooks), batch.pairs, metric)
        with starting_at(model, layer, resid_pre):
            return task_metric(end_logits(model, batch.clean.tokens, hooks), batch.pairs, metric)
