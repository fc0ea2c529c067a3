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

from interp.activations.stream import BATCH_SIZE, FORWARD_AND_BACKWARD
from interp.interventions.clean_run import CleanRun
from interp.models import HookFunction

HeadValues = Float[np.ndarray, "pair layer head"]
HALF_ON, QUARTER_ON = 0.5, 0.25  # shares that are used


class PartialGradients:
    """Values of every head (module docstring) on pairs of a clean run; each pair and share is run once."""

    def __init__(self, clean: CleanRun) -> None:
        self.clean = clean
        self._known: dict[tuple[int, float], np.ndarray] = {}

    def of(self, pairs: Sequence[int], share: float) -> tuple[HeadValues, float]:
        """Values in the order of ``pairs`` where ``share`` of every head stays on (1 is attribution); and their cost in
        forward-pass equivalents, as if all were run anew."""
        missing = [pair for pair in dict.fromkeys(pairs) if (pair, share) not in self._known]
        everywhere = torch.full((len(missing), self.clean.n_layers, self.clean.n_heads), share)
        values = partial_values(self.clean, missing, everywhere)
        self._known |= {(pair, share): value for pair, value in zip(missing, values, strict=True)}
        cost = FORWARD_AND_BACKWARD * self.clean.share(pairs) * len(pairs)
        return np.stack([self._known[pair, share] for pair in pairs]), cost


def partial_values(clean: CleanRun, pairs: Sequence[int], share: Float[Tensor, "pair layer head"]) -> HeadValues:
    """Values of every head on some pairs, each head holding its own share of its output."""
    values = np.zeros(share.shape)
    row_of = {pair: row for row, pair in enumerate(pairs)}
    for group, begin in clean.near(pairs, BATCH_SIZE):
        rows = [row_of[pair] for pair in group]
        values[rows] = _values(clean, group, begin, share[rows])
    return values


def _values(clean: CleanRun, pairs: list[int], begin: int, share: Float[Tensor, "pair layer head"]) -> HeadValues:
    embedded, corrupt = clean.outputs(pairs, begin)
    shares = share.to(corrupt)[:, :, None, :, None]
    used: list[Tensor] = []
    live: list[Tensor] = []

    def mix(layer: int) -> HookFunction:
        def hook(z: Tensor) -> Tensor:
            live.append(z.detach())
            used.append(torch.lerp(corrupt[layer].to(z.dtype), z, shares[:, layer].to(z.dtype)))
            return used[-1]

        return hook

    hooks = {f"blocks.{layer}.attn.hook_z": mix(layer) for layer in range(clean.n_layers)}
    # every parameter is frozen: the graph begins at the first block's input
    embedded = embedded.detach().requires_grad_(True)
    with torch.enable_grad():
        gradients = torch.autograd.grad(clean.metric(pairs, 0, embedded, hooks, begin).sum(), used)
    values = [
        ((z - off) * gradient).float().sum((1, 3)) for z, off, gradient in zip(live, corrupt, gradients, strict=True)
    ]
    return torch.stack(values, 1).cpu().numpy()
