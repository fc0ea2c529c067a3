"""Heads that nobody misses while another stands in for them: gradients in runs where many heads are off.

Swapping one head at a time is blind to an OR-gate (either arm suffices) and to backups (they write only when the mover
does not), and so is a gradient at the clean run, where the gate is saturated. So every pair is run once more with
each head off (holding its corrupt output) with probability 1 − keep, and the gradient is taken there:

    value(u) = Σ_positions (z_u − z'_u) · ∂m/∂z_u     at the run with the random heads off, z_u as it would be there

Averaged over pairs, each with its own draw, it estimates the mean effect of u over contexts in which the others may be
missing: to first order the Banzhaf value (Banzhaf 1965), which an arm of an OR-gate has and a decoy has not.

When it misleads: with half of the heads off the model is half in the corrupt run, and what matters there may not
matter to the task. So the values only *order* heads that are no members by themselves.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits
from interp.models import Model
from interp.models.start import starting_at
from interp.scores.swaps import BaseRun, Swaps
from interp.tasks.pairs import PromptPair

KEEP = 0.5
"""Probability that a head stays on: every pair of heads is then off together in a quarter of the runs."""
COST = 3.0
"""A forward and a backward."""


class MaskedGradients:
    """Values of every head (module docstring) on pairs that ``swaps`` has kept; each pair is run once at most."""

    def __init__(self, model: Model, swaps: Swaps, keep: float = KEEP) -> None:
        self.model, self.swaps, self.keep = model, swaps, keep
        self._known: dict[int, np.ndarray] = {}

    def of(self, pairs: Sequence[int]) -> Float[np.ndarray, "pair layer head"]:
        """In the order of ``pairs``. Counts as run anew in ``swaps.forwards``."""
        missing = set(pairs) - set(self._known)
        for run in self.swaps.runs:
            rows = [row for row, index in enumerate(run.indices) if index in missing]
            if rows:
                values = _masked(self.model, run, rows, self.keep)
                self._known |= {run.indices[row]: value for row, value in zip(rows, values, strict=True)}
        self.swaps.forwards += COST * self.swaps.share(pairs) * len(pairs)
        return np.stack([self._known[pair] for pair in pairs])


def drawn_on(
    pairs: Sequence[PromptPair], n_layers: int, n_heads: int, keep: float
) -> Bool[Tensor, "layer pair 1 head 1"]:
    """Which heads stay on; a pair's draw depends on its clean prompt alone."""
    drawn = [np.random.default_rng(pair.clean_tokens).random((n_layers, n_heads)) for pair in pairs]
    return torch.from_numpy(np.stack(drawn, axis=1) < keep)[:, :, None, :, None]


def _masked(model: Model, run: BaseRun, rows: list[int], keep: float) -> np.ndarray:
    layers = model.cfg.n_layers
    on = drawn_on([run.pairs[row] for row in rows], layers, model.cfg.n_heads, keep)
    corrupt = run.corrupt_z[:, rows]
    used: list[Tensor] = []
    live: list[Tensor] = []

    def mask(layer: int):
        def hook(z: Tensor) -> Tensor:
            live.append(z.detach())
            used.append(torch.where(on[layer].to(z.device), z, corrupt[layer].to(z.dtype)))
            return used[-1]

        return hook

    hooks = {f"blocks.{layer}.attn.hook_z": mask(layer) for layer in range(layers)}
    # every parameter is frozen: the graph begins at the first block's input
    begin = run.resid[0, rows].detach().requires_grad_(True)
    with (
        torch.enable_grad(),
        starting_at(model, 0, begin),
        run.prefix.before(model, rows),
    ):
        logits = end_logits(model, run.tokens[rows], hooks)
        metric = task_metric(logits, tuple(run.pairs[row] for row in rows), run.metric_name)
        gradients = torch.autograd.grad(metric.sum(), used)
    values = [
        ((z - off) * gradient).float().sum((1, 3))
        for z, off, gradient in zip(live, corrupt, gradients, strict=True)
    ]
    return torch.stack(values, 1).cpu().numpy()
