"""Heads that nobody misses while another stands in for them: gradients in runs where all heads are partly off.

Swapping one head at a time is blind to an OR-gate (either arm suffices) and to backups (they write only when the mover
does not), and so is a gradient at the clean run, where the gate is saturated. So pairs are run once more with every
head partly off, holding a mixture of its output there and its corrupt output, and the gradient is taken there:

    value(u) = Σ_positions (z_u − z'_u) · ∂m/∂(s z_u + (1 − s) z'_u)     z_u as it is in the run with share s

It is the mean field of turning each head off at random with probability 1 − s, which to first order would give the
Banzhaf value (Banzhaf 1965; s = ½), but without the noise of the draw. An arm of an OR-gate has such a value and a
decoy has not. Two shares see different gates: where two arms of weight ½ still saturate what they feed, two of weight ¼
do not.

Summed over all heads the values are the derivative of the metric by s, so their integral from 0 to 1 shares out among
the heads all of what the metric loses when every head is off (Aumann & Shapley 1974, *Values of Non-Atomic Games*), and
the values at s = ½ are the midpoint rule for it. With some heads on and the others half off they are the same for what
is lost without the others: :mod:`.nested` builds circuits that run alone of that.

When it misleads: half off, the model is half in the corrupt run, and what matters there may not matter to the task.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import FORWARD_AND_BACKWARD
from interp.models import HookFunction, Model
from interp.scores.patch_runner import CleanRun, PatchRunner

HALF_ON, QUARTER_ON = 0.5, 0.25
"""Shares that are used."""


class PartialGradients:
    """Values of every head (module docstring) on pairs that ``runner`` has kept; each pair and share is run once."""

    def __init__(self, model: Model, runner: PatchRunner) -> None:
        self.model, self.runner = model, runner
        self._known: dict[tuple[int, float], np.ndarray] = {}

    def of(self, pairs: Sequence[int], share: float) -> tuple[Float[np.ndarray, "pair layer head"], float]:
        """Values in the order of ``pairs``; and their cost in forward-pass equivalents, as if all were run anew.

        Args:
            share: s, how much of every head stays on; 1 is attribution.
        """
        missing = {pair for pair in pairs if (pair, share) not in self._known}
        for run in self.runner.runs:
            rows = [row for row, index in enumerate(run.indices) if index in missing]
            if rows:
                everywhere = torch.full((len(rows), self.model.cfg.n_layers, self.model.cfg.n_heads), share)
                values = partial_values(self.model, run, rows, everywhere)
                self._known |= {
                    (run.indices[row], share): value for row, value in zip(rows, values, strict=True)
                }
        cost = FORWARD_AND_BACKWARD * self.runner.share(pairs) * len(pairs)
        return np.stack([self._known[pair, share] for pair in pairs]), cost


def partial_values(
    model: Model, run: CleanRun, rows: Sequence[int], share: Float[Tensor, "pair layer head"]
) -> Float[np.ndarray, "pair layer head"]:
    """Values of every head on the pairs in these rows of a base run, each head holding its own share of its output."""
    rows = list(rows)
    length = int(run.last[rows].max()) + 1
    corrupt = run.corrupt_z[:, rows, :length]
    shares = share.to(corrupt)[:, :, None, :, None]
    used: list[Tensor] = []
    live: list[Tensor] = []

    def mix(layer: int) -> HookFunction:
        def hook(z: Tensor) -> Tensor:
            live.append(z.detach())
            used.append(torch.lerp(corrupt[layer].to(z.dtype), z, shares[:, layer].to(z.dtype)))
            return used[-1]

        return hook

    hooks = {f"blocks.{layer}.attn.hook_z": mix(layer) for layer in range(model.cfg.n_layers)}
    # every parameter is frozen: the graph begins at the first block's input
    begin = run.resid[0, rows, :length].detach().requires_grad_(True)
    with torch.enable_grad():
        gradients = torch.autograd.grad(run.answers(rows, 0, begin, hooks).sum(), used)
    values = [
        ((z - off) * gradient).float().sum((1, 3))
        for z, off, gradient in zip(live, corrupt, gradients, strict=True)
    ]
    return torch.stack(values, 1).cpu().numpy()
