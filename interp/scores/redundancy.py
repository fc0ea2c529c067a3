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

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.metric import task_metric
from interp.activations.stream import end_logits
from interp.models import Model
from interp.models.start import starting_at
from interp.scores.swaps import BaseRun, Swaps

KEEP = 0.5
"""Probability that a head stays on: every pair of heads is then off together in a quarter of the runs."""
COST = 3.0
"""A forward and a backward."""


def masked_gradients(
    model: Model, swaps: Swaps, pairs: set[int], *, seed: int, keep: float = KEEP
) -> Float[np.ndarray, "pair layer head"]:
    """Value of every head (module docstring) on each of some pairs, which ``swaps`` must have kept."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for run in swaps.runs:
        rows = [row for row, index in enumerate(run.indices) if index in pairs]
        if rows:
            found.append(_masked(model, run, rows, generator, keep))
            swaps.forwards += COST * len(rows) * run.share
    return np.concatenate(found)


def _masked(
    model: Model, run: BaseRun, rows: list[int], generator: torch.Generator, keep: float
) -> np.ndarray:
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    on = torch.rand(layers, len(rows), 1, heads, 1, generator=generator) < keep
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
